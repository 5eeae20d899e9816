import { gateway, handle, load, picture, play, read } from './cases.mjs';

const { OpenAI } = load('openai');
const client = new OpenAI({ baseURL: gateway + '/openai/v1', apiKey: handle, maxRetries: 0 });
const compatible = new OpenAI({ baseURL: gateway + '/compatible/v1', apiKey: handle, maxRetries: 0 });
const model = 'scripted';
const say = (content) => ({ model, messages: [{ role: 'user', content }] });
const look = { name: 'look', description: 'looks', parameters: { type: 'object', properties: { at: { type: 'string' } }, required: ['at'], additionalProperties: false } };
const delta = (chunk) => chunk.choices[0]?.delta?.content;

await play({
  chat: async () => (await client.chat.completions.create(say('hello'))).choices[0].message.content,
  developer: async () => (await client.chat.completions.create({ model, store: false, reasoning_effort: 'low', seed: 1, metadata: { a: 'b' }, user: 'u',
    messages: [{ role: 'developer', content: 'be short' }, { role: 'user', name: 'n', content: [{ type: 'text', text: 'hello' }] }] })).choices[0].message.content,
  elsewhere: async () => (await compatible.chat.completions.create({ ...say('hello'), max_tokens: 50, top_k: 3 })).choices[0].message.content,
  stream: async () => {
    let usages = 0;
    const text = await read(await client.chat.completions.create({ ...say('hello there'), stream: true }), (c) => { usages += c.choices.length ? 0 : 1; return delta(c); });
    return { text, usages };
  },
  stream_usage: async () => {
    let tokens = 0;
    const text = await read(await client.chat.completions.create({ ...say('hello there'), stream: true, stream_options: { include_usage: true } }), (c) => { tokens += c.usage?.completion_tokens ?? 0; return delta(c); });
    return { text, tokens: tokens > 0 };
  },
  late: async () => read(await client.chat.completions.create({ ...say('hello !late'), stream: true }), delta),
  helper: async () => {
    const stream = client.chat.completions.stream(say('hello there'));
    return (await stream.finalChatCompletion()).choices[0].message.content;
  },
  tools: async () => {
    const runner = client.chat.completions.runTools({ ...say('!call look {"at":"sky"}'),
      tools: [{ type: 'function', function: { ...look, parse: JSON.parse, function: ({ at }) => `${at} is blue` } }] });
    return runner.finalContent();
  },
  tools_stream: async () => {
    const runner = client.chat.completions.runTools({ ...say('!call look {"at":"sky"}'), stream: true,
      tools: [{ type: 'function', function: { ...look, parse: JSON.parse, function: ({ at }) => `${at} is blue` } }] });
    return runner.finalContent();
  },
  schema: async () => (await client.chat.completions.create({ ...say('hello'), response_format: { type: 'json_schema', json_schema: { name: 'x', strict: true, schema: look.parameters } } })).choices[0].message.content,
  image: async () => (await client.chat.completions.create({ model, max_completion_tokens: 100, messages: [{ role: 'user', content: [{ type: 'text', text: 'what is this' }, { type: 'image_url', image_url: { url: 'data:image/png;base64,' + picture, detail: 'low' } }] }] })).choices[0].message.content,
  choices: async () => (await client.chat.completions.create({ ...say('hello'), n: 2, max_completion_tokens: 100 })).choices.length,
  responses: async () => (await client.responses.create({ model, input: 'hello', instructions: 'be short', reasoning: { effort: 'low', summary: 'auto' }, text: { format: { type: 'text' }, verbosity: 'low' } })).output_text,
  responses_stream: async () => read(await client.responses.create({ model, input: 'hello there', stream: true }), (e) => e.type === 'response.output_text.delta' ? e.delta : ''),
  responses_helper: async () => (await client.responses.stream({ model, input: 'hello there' }).finalResponse()).output_text,
  responses_tools: async () => {
    const tools = [{ type: 'function', strict: true, ...look }];
    const input = [{ role: 'user', content: '!call look {"at":"sky"}' }];
    const first = await client.responses.create({ model, input, tools, store: false, include: ['reasoning.encrypted_content'] });
    const call = first.output.find((o) => o.type === 'function_call');
    input.push(...first.output, { type: 'function_call_output', call_id: call.call_id, output: `${JSON.parse(call.arguments).at} is blue` });
    return (await client.responses.create({ model, input, tools, store: false })).output_text;
  },
  responses_image: async () => (await client.responses.create({ model, input: [{ role: 'user', content: [{ type: 'input_text', text: 'what is this' }, { type: 'input_image', detail: 'low', image_url: 'data:image/png;base64,' + picture }] }] })).output_text,
  responses_previous: async () => (await client.responses.create({ model, input: 'and now', previous_response_id: 'resp_scripted' })).output_text,
  models: async () => (await client.models.list()).data.length,
  agreeable: async () => (await client.withOptions({ defaultHeaders: { 'OpenAI-Beta': 'responses=v1' }, timeout: 30000, maxRetries: 2 }).chat.completions.create(say('hello'))).choices[0].message.content,

  abort: async () => {
    const stream = await client.chat.completions.create({ ...say('a b c d e f !slow'), stream: true });
    const text = await read(stream, delta, 2);
    stream.controller.abort();
    return text;
  },
  timeout: async () => client.chat.completions.create(say('hello !slow'), { timeout: 20 }),
  limits: async () => client.chat.completions.create(say('!limits'), { maxRetries: 1 }),
  refuses: async () => client.chat.completions.create(say('!refuses'), { maxRetries: 2 }),
  fails: async () => client.chat.completions.create(say('!fails')),
  breaks: async () => client.chat.completions.create(say('!breaks')),
  breaks_stream: async () => read(await client.chat.completions.create({ ...say('a b c d e f !breaks'), stream: true }), delta),
  silent: async () => (await client.chat.completions.create(say('!silent'))).choices[0].message.content,

  key: async () => new OpenAI({ baseURL: gateway + '/openai/v1', apiKey: 'sk-mine', maxRetries: 2 }).chat.completions.create(say('hello')),
  model: async () => client.chat.completions.create({ ...say('hello'), model: 'without-a-price' }, { maxRetries: 2 }),
  search: async () => client.responses.create({ model, input: 'hello', tools: [{ type: 'web_search' }] }, { maxRetries: 2 }),
  embeddings: async () => client.embeddings.create({ model, input: 'hello' }, { maxRetries: 2 }),
  exhausted: async () => {
    for (let i = 0; i < 100; i++) await client.chat.completions.create({ ...say('hello'), max_completion_tokens: 2000 }, { maxRetries: 2 });
    return 'never refused';
  },
  rate: async () => {
    for (let i = 0; i < 100; i++) await client.chat.completions.create({ ...say('hello'), max_completion_tokens: 20 });
    return 'never refused';
  },
  exhausted_stream: async () => {
    for (let i = 0; i < 100; i++) await read(await client.chat.completions.create({ ...say('hello'), max_completion_tokens: 2000, stream: true }, { maxRetries: 2 }), delta);
    return 'never refused';
  },
});
