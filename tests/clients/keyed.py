"""The official OpenAI SDK with a key of the gateway.

    keyed.py URL KEY MODEL

Prints one JSON object: the text of the answer, or the class, status and code of the error.
"""

import json
import sys

import openai

url, key, model = sys.argv[1:4]
api = openai.OpenAI(base_url=url + "/v1", api_key=key, timeout=20)
try:
    answer = api.chat.completions.create(model=model, messages=[{"role": "user", "content": "one two three"}])
    print(json.dumps({"text": answer.choices[0].message.content}))
except openai.APIStatusError as error:
    body = error.body or {}
    print(json.dumps({"error": type(error).__name__, "status": error.status_code, "code": body.get("code"),
                      "message": error.message}))
