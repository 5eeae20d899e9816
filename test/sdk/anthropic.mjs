import { gateway, handle, load, picture, play, read } from './cases.mjs';

const { Anthropic } = load('@anthropic-ai/sdk');
const client = new Anthropic({ baseURL: gateway + '/anthropic', apiKey: handle, maxRetries: 0 });
const model = 'scripted';
const say = (content) => ({ model, max_tokens: 100, messages: [{ role: 'user', content }] });
const look = { name: 'look', description: 'looks', input_schema: { type: 'object', properties: { at: { type: 'string' } }, required: ['at'] } };
const text = (message) => message.content.map((b) => b.text ?? '').join('');
const delta = (event) => event.type === 'content_block_delta' ? event.delta.text : '';

await play({
  messages: async () => text(await client.messages.create(say('hello'))),
  stream: async () => read(await client.messages.create({ ...say('hello there'), stream: true }), delta),
  late: async () => read(await client.messages.create({ ...say('hello !late'), stream: true }), delta),
  helper: async () => text(await client.messages.stream(say('hello there')).finalMessage()),
  tools: async () => {
    const ask = { ...say('!call look {"at":"sky"}'), tools: [look], tool_choice: { type: 'auto', disable_parallel_tool_use: true } };
    const first = await client.messages.create(ask);
    const call = first.content.find((b) => b.type === 'tool_use');
    ask.messages.push({ role: 'assistant', content: first.content }, { role: 'user', content: [{ type: 'tool_result', tool_use_id: call.id, content: `${call.input.at} is blue` }] });
    return text(await client.messages.create(ask));
  },
  runner: async () => text(await client.beta.messages.toolRunner({ ...say('!call look {"at":"sky"}'), tools: [{ ...look, run: ({ at }) => `${at} is blue`, parse: (x) => x }] })),
  image: async () => text(await client.messages.create(say([{ type: 'text', text: 'what is this' }, { type: 'image', source: { type: 'base64', media_type: 'image/png', data: picture } }]))),
  cache: async () => text(await client.messages.create({ ...say([{ type: 'text', text: 'hello', cache_control: { type: 'ephemeral', ttl: '1h' } }]), system: [{ type: 'text', text: 'be short', cache_control: { type: 'ephemeral' } }] })),
  thinking: async () => text(await client.messages.create({ ...say('hello'), max_tokens: 3000, thinking: { type: 'enabled', budget_tokens: 1024 }, metadata: { user_id: 'u' }, stop_sequences: ['x'] })),
  beta: async () => text(await client.beta.messages.create({ ...say('hello'), betas: ['context-management-2025-06-27'], context_management: { edits: [{ type: 'clear_tool_uses_20250919' }] } })),
  count: async () => (await client.messages.countTokens({ model, messages: [{ role: 'user', content: 'hello' }] })).input_tokens > 0,
  models: async () => (await client.models.list({ limit: 5 })).data.length,
  bearer: async () => text(await new Anthropic({ baseURL: gateway + '/anthropic', authToken: handle, apiKey: null }).messages.create(say('hello'))),

  abort: async () => {
    const stream = await client.messages.create({ ...say('a b c d e f !slow'), stream: true });
    const said = await read(stream, delta, 4);
    stream.controller.abort();
    return said;
  },
  limits: async () => client.messages.create(say('!limits'), { maxRetries: 1 }),
  overload: async () => client.messages.create(say('!overload')),
  fails: async () => client.messages.create(say('!fails')),
  breaks_stream: async () => client.messages.stream(say('a b c d e f !breaks')).finalMessage(),
  silent: async () => text(await client.messages.create(say('!silent'))),

  key: async () => new Anthropic({ baseURL: gateway + '/anthropic', apiKey: 'sk-mine' }).messages.create(say('hello')),
  model: async () => client.messages.create({ ...say('hello'), model: 'without-a-price' }, { maxRetries: 2 }),
  search: async () => client.messages.create({ ...say('hello'), tools: [{ type: 'web_search_20250305', name: 'web_search' }] }, { maxRetries: 2 }),
  batches: async () => client.messages.batches.create({ requests: [] }, { maxRetries: 2 }),
  exhausted: async () => {
    for (let i = 0; i < 100; i++) await client.messages.create({ ...say('hello'), max_tokens: 2000 }, { maxRetries: 2 });
    return 'never refused';
  },
  exhausted_stream: async () => {
    for (let i = 0; i < 100; i++) await client.messages.stream({ ...say('hello'), max_tokens: 2000 }, { maxRetries: 2 }).finalMessage();
    return 'never refused';
  },
  rate: async () => {
    for (let i = 0; i < 100; i++) await client.messages.create({ ...say('hello'), max_tokens: 20 });
    return 'never refused';
  },
});
