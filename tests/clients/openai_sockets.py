"""The official OpenAI SDK over WebSockets.

    openai_sockets.py URL realtime|responses|kill_realtime|kill_responses SESSION

Each mode prints one JSON object at its end. The `kill` modes stream slowly, print `event N` for each
event, and say at the end what stopped them and what the next connection got.
"""

import json
import sys

import openai

SLOW = "[[words 2000]] [[pace 20ms]]"


def client(url, session):
    return openai.OpenAI(base_url=url + "/v1", api_key="sk-test", default_headers={"X-Session-ID": session})


def said(text):
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def ask(connection, mode, text):
    if mode == "realtime":
        connection.conversation.item.create(item=said(text))
        connection.response.create()
    else:
        connection.response.create(model="gpt-5-demo", input=[said(text)])


def connect(api, mode):
    # The SDK reconnects only on request.
    return api.realtime.connect(model="gpt-realtime-demo") if mode == "realtime" else api.responses.connect()


def answer(connection, mode, text):
    ask(connection, mode, text)
    pieces = []
    for event in connection:
        if event.type == "response.output_text.delta":
            pieces.append(event.delta)
        if event.type in ("response.done", "response.completed"):
            return {"text": "".join(pieces), "output_tokens": event.response.usage.output_tokens}
        if event.type == "error":
            raise RuntimeError(event.to_json())
    return None


def failure(error):
    received = getattr(getattr(error, "__cause__", None) or error, "rcvd", None)
    response = getattr(error, "response", None)
    return {
        "type": type(error).__name__,
        "message": str(error),
        "code": getattr(received, "code", None),
        "reason": getattr(received, "reason", None),
        "status": getattr(response, "status_code", None),
        "body": getattr(response, "body", b"").decode() if response is not None else None,
    }


def kill(api, mode):
    events, error_event, stopped_by = 0, None, None
    try:
        with connect(api, mode) as connection:
            ask(connection, mode, SLOW)
            for event in connection:
                events += 1
                print("event", events, flush=True)
                if event.type == "error":
                    error_event = event.to_dict()
    except Exception as error:  # noqa: BLE001
        stopped_by = failure(error)
    try:
        with connect(api, mode) as connection:
            following = answer(connection, mode, "again")
    except Exception as error:  # noqa: BLE001
        following = failure(error)
    return {"events": events, "error": error_event, "stopped_by": stopped_by, "next": following}


def main():
    url, mode, session = sys.argv[1:4]
    api = client(url, session)
    if mode.startswith("kill_"):
        report = kill(api, mode.removeprefix("kill_"))
    else:
        with connect(api, mode) as connection:
            report = [answer(connection, mode, "one two three"), answer(connection, mode, "four five")]
    print(json.dumps({"report": report}), flush=True)


main()
