"""Checks the chain of an export with an independent implementation of RFC 8785, the package rfc8785."""

import hashlib
import json
import sys

import rfc8785

count, before = 0, None
with open(sys.argv[1], encoding="utf-8") as file:
    for line in file:
        record = json.loads(line)
        if record["schema"] not in ("elida.cdr/2", "elida.cdr/3"):
            continue
        recorded = record["chain"].pop("hash")
        found = hashlib.sha256(rfc8785.dumps(record)).hexdigest()
        assert found == recorded, f"record {record['chain']['seq']}: {found} is not {recorded}"
        assert before is None or record["chain"]["prev"] == before, "the chain is broken"
        count, before = count + 1, recorded
print(f"in order: {count} records")
