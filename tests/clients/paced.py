"""A slow stream read by an official SDK: comments between its events must not disturb it.

    paced.py URL openai|anthropic

Prints one JSON object with the text that arrived.
"""

import json
import sys

import anthropic
import openai

ASKED = {"max_tokens": 100, "messages": [{"role": "user", "content": "one two three [[pace 150ms]]"}]}


def by_openai(url):
    api = openai.OpenAI(base_url=f"{url}/v1", api_key="sk-test", timeout=20)
    chunks = api.chat.completions.create(model="gpt-demo", stream=True, **ASKED)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def by_anthropic(url):
    api = anthropic.Anthropic(base_url=url, api_key="sk-ant-test", timeout=20)
    with api.messages.stream(model="claude-demo", **ASKED) as stream:
        return "".join(stream.text_stream)


if __name__ == "__main__":
    url, sdk = sys.argv[1:]
    print(json.dumps({"text": {"openai": by_openai, "anthropic": by_anthropic}[sdk](url)}), flush=True)
