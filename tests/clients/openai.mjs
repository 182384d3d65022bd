// OpenAI's SDK for JavaScript: one line of JSON for each call. Arguments: base URL, key, model,
// the model that embeds.
import OpenAI, { NotFoundError } from "openai";

const [baseURL, apiKey, model, embedder] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Hello there" }];
const asked = { model, temperature: 0 };
const say = (name, result) => console.log(JSON.stringify({ name, ...result }));

const whole = await client.chat.completions.create({ ...asked, messages, max_tokens: 12 });
const text = whole.choices[0].message.content;
say("chat", { text, model: whole.model, usage: whole.usage, id: whole._request_id });

{
  const options = { stream: true, stream_options: { include_usage: true } };
  const made = client.chat.completions.create({ ...asked, messages, max_tokens: 12, ...options });
  const { data, request_id: id } = await made.withResponse();
  let text = "";
  let usage = null;
  for await (const chunk of data) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usage = chunk.usage ?? usage;
  }
  say("stream", { text, usage, id });
}
{
  const parameters = { type: "object", properties: { city: { type: "string" } } };
  const tools = [{ type: "function", function: { name: "weather", parameters } }];
  const answer = await client.chat.completions.create({ ...asked, messages, tools, max_tokens: 2 });
  say("tools", { usage: answer.usage, id: answer._request_id });
}
{
  const answer = await client.completions.create({ ...asked, prompt: "import os", max_tokens: 9 });
  say("completions", { text: answer.choices[0].text, usage: answer.usage, id: answer._request_id });
}
{
  const answer = await client.embeddings.create({ model: embedder, input: ["one", "another"] });
  const sizes = answer.data.map((one) => one.embedding.length);
  say("embeddings", { sizes, usage: answer.usage, id: answer._request_id });
}
const input = "Hello there";
{
  const answer = await client.responses.create({ ...asked, input, max_output_tokens: 12 });
  say("responses", { text: answer.output_text, usage: answer.usage, id: answer._request_id });
}
{
  const made = client.responses.create({ ...asked, input, max_output_tokens: 12, stream: true });
  const { data, request_id: id } = await made.withResponse();
  let text = "";
  let usage = null;
  for await (const event of data) {
    if (event.type === "response.output_text.delta") text += event.delta;
    if (event.type.startsWith("response.") && event.response?.usage) usage = event.response.usage;
  }
  say("responses_stream", { text, usage, id });
}
const names = [];
for await (const one of client.models.list()) names.push(one.id);
say("models", { names });
try {
  await client.chat.completions.create({ ...asked, model: "nothing", messages });
} catch (error) {
  say("unknown", { known: error instanceof NotFoundError, code: error.code });
}
