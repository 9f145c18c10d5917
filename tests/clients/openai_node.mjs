// Requests with OpenAI's library for Node; prints what came back as one JSON object. Arguments: the server's URL.
import OpenAI from 'openai';

const client = new OpenAI({ baseURL: process.argv[2], apiKey: 'unused', maxRetries: 0 });
const messages = [{ role: 'user', content: 'Hi' }];
const asked = { model: 'any', messages, seed: 3, max_tokens: 12 };
const tools = [{
  type: 'function',
  function: {
    name: 'weather',
    parameters: { type: 'object', properties: { city: { enum: ['Rome'] } }, required: ['city'], additionalProperties: false },
  },
}];

const found = {};
found.models = (await client.models.list()).data.map((model) => model.id);
found.model = (await client.models.retrieve('any')).id;
const whole = await client.chat.completions.create(asked);
found.whole = [whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage.completion_tokens];

let text = '';
let usage = null;
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } })) {
  text += chunk.choices[0]?.delta.content ?? '';
  usage = chunk.usage ?? usage;
}
found.stream = [text, usage.completion_tokens];

const called = { ...asked, tools, tool_choice: 'required', parallel_tool_calls: false, max_tokens: 200 };
const call = (await client.chat.completions.create(called)).choices[0];
found.call = [call.message.tool_calls[0].function, call.finish_reason];
// The library's own assembly of a stream.
const streamed = (await client.chat.completions.stream(called).finalChatCompletion()).choices[0];
found.streamedCall = [streamed.message.tool_calls[0].function, streamed.finish_reason];

try {
  await client.chat.completions.create({ ...asked, n: 2 });
} catch (error) {
  found.error = [error instanceof OpenAI.BadRequestError, error.status, error.param];
}
console.log(JSON.stringify(found));
