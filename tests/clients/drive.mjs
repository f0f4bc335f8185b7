// Vercel's AI SDK as a client of the gateway, through every scenario of scenarios.json, or of the file
// $SCENARIOS.
//
//     drive.mjs PROGRAM GATEWAY_URL CONTROL_URL
//
// The counterpart of drive.py: the scenarios run concurrently, each in its own session
// (`PROGRAM-SCENARIO`), each prints one JSON object, and the kill scenario plays the operator itself.

import { readFileSync } from "node:fs";
import { generateText, isStepCount, jsonSchema, streamText, tool } from "ai";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

const SCENARIOS = JSON.parse(readFileSync(process.env.SCENARIOS ?? new URL("scenarios.json", import.meta.url)));
const SCHEMA = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const TIMEOUT = 20_000;

const openai = (url, headers) => createOpenAI({ baseURL: `${url}/v1`, apiKey: "sk-test", headers });

const PROGRAMS = {
  "ai-sdk-openai": (url, headers) => openai(url, headers).responses("gpt-5-demo"),
  "ai-sdk-openai-chat": (url, headers) => openai(url, headers).chat("gpt-demo"),
  "ai-sdk-anthropic": (url, headers) =>
    createAnthropic({ baseURL: `${url}/v1`, apiKey: "sk-ant-test", headers })("claude-demo"),
  "ai-sdk-openai-compatible": (url, headers) =>
    createOpenAICompatible({ name: "gateway", baseURL: `${url}/v1`, apiKey: "sk-test", headers, includeUsage: true })(
      "gpt-demo",
    ),
};

// The error as its caller sees it. The last error of a retried request is inside the final one.
function failure(error) {
  return {
    class: error.name ?? typeof error,
    status: error.statusCode ?? error.lastError?.statusCode ?? null,
    message: error.message ?? JSON.stringify(error),
    body: error.responseBody ?? "",
  };
}

async function command(control, session, order, body = "") {
  const headers = { "content-type": "application/json" };
  const answer = await fetch(`${control}/control/sessions/${session}/${order}`, { method: "POST", headers, body });
  if (!answer.ok) throw new Error(`${order}: ${answer.status}`);
}

const timed = (model, text) => ({ model, prompt: text, abortSignal: AbortSignal.timeout(TIMEOUT) });

async function whole(model, text) {
  const answer = await generateText(timed(model, text));
  return { text: answer.text, tokens: answer.usage.outputTokens, stop: answer.finishReason };
}

// An error is the last event of the stream; it is thrown here, as a caller would do.
async function streamed(model, text, report, afterPiece = async () => {}) {
  const stream = streamText({ ...timed(model, text), onError: () => {} });
  report.text = "";
  report.pieces = 0;
  for await (const part of stream.fullStream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta" && part.text) {
      report.text += part.text;
      report.pieces += 1;
      await afterPiece(report.pieces);
    }
    if (part.type === "finish") {
      report.stop = part.finishReason;
      report.tokens = part.totalUsage.outputTokens;
    }
  }
}

async function tools(model, text, isStreamed) {
  const weather = tool({
    description: "The weather of a city",
    inputSchema: jsonSchema(SCHEMA),
    execute: () => "sunny",
  });
  const asked = { ...timed(model, text), tools: { weather }, stopWhen: isStepCount(2) };
  let failed;
  const onError = ({ error }) => (failed = error);
  const answer = isStreamed ? streamText({ ...asked, onError }) : await generateText(asked);
  if (isStreamed) await answer.consumeStream();
  if (failed) throw failed;
  const [first, last] = await answer.steps;
  const [call] = first.toolCalls;
  return { tool: call.toolName, input: call.input, stop: first.finishReason, text: last.text };
}

async function kill(model, text, report, operator) {
  const killAfterFive = (count) => count === 5 && operator("kill", '{"reason": "runaway"}');
  try {
    await streamed(model, text, report, killAfterFive);
  } catch (error) {
    report.failure = failure(error);
  }
  report.text = report.text.slice(0, 200);
  try {
    report.next = await whole(model, "after the kill");
  } catch (error) {
    report.next = failure(error);
  }
  await operator("resume");
  report.again = (await whole(model, "one two three")).text;
}

async function play(scenario, program, url, control) {
  const session = `${program}-${scenario.name}`;
  const report = { scenario: scenario.name };
  const model = PROGRAMS[program](url, { "X-Session-ID": session, ...scenario.headers });
  const asks = {
    whole: async () => Object.assign(report, await whole(model, scenario.text)),
    streamed: () => streamed(model, scenario.text, report),
    tools: async () => Object.assign(report, await tools(model, scenario.text, scenario.streamed)),
    kill: () => kill(model, scenario.text, report, (order, body) => command(control, session, order, body)),
  };
  try {
    await asks[scenario.asks]();
  } catch (error) {
    report.failure = failure(error);
  }
  return report;
}

const [program, url, control] = process.argv.slice(2);
const reports = await Promise.all(SCENARIOS.map((scenario) => play(scenario, program, url, control)));
for (const report of reports) console.log(JSON.stringify(report));
