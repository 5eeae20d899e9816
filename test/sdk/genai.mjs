import { gateway, handle, load, picture, play, read } from './cases.mjs';

const { GoogleGenAI } = load('@google/genai');
const client = new GoogleGenAI({ apiKey: handle, httpOptions: { baseUrl: gateway + '/gemini' } });
const model = 'scripted';
const say = (contents, config) => ({ model, contents, config: { maxOutputTokens: 100, ...config } });
const look = { name: 'look', description: 'looks', parameters: { type: 'OBJECT', properties: { at: { type: 'STRING' } } } };

await play({
  generate: async () => (await client.models.generateContent(say('hello'))).text,
  configured: async () => (await client.models.generateContent(say('hello', { systemInstruction: 'be short', temperature: 0.1, thinkingConfig: { thinkingBudget: 0 }, safetySettings: [] }))).text,
  stream: async () => read(await client.models.generateContentStream(say('hello there')), (c) => c.text),
  late: async () => read(await client.models.generateContentStream(say('hello !late')), (c) => c.text),
  tools: async () => {
    const chat = client.chats.create({ model, config: { tools: [{ functionDeclarations: [look] }] } });
    const first = await chat.sendMessage({ message: '!call look {"at":"sky"}' });
    const call = first.functionCalls[0];
    return (await chat.sendMessage({ message: [{ functionResponse: { id: call.id, name: call.name, response: { is: call.args.at + ' is blue' } } }] })).text;
  },
  image: async () => (await client.models.generateContent(say([{ text: 'what is this' }, { inlineData: { mimeType: 'image/png', data: picture } }]))).text,
  count: async () => (await client.models.countTokens({ model, contents: 'hello' })).totalTokens > 0,

  abort: async () => {
    const controller = new AbortController();
    const stream = await client.models.generateContentStream(say('a b c d e f !slow', { abortSignal: controller.signal }));
    const said = await read(stream, (c) => c.text, 2);
    controller.abort();
    return said;
  },
  limits: async () => client.models.generateContent(say('!limits')),
  fails: async () => client.models.generateContent(say('!fails')),
  silent: async () => (await client.models.generateContent(say('!silent'))).text,

  key: async () => new GoogleGenAI({ apiKey: 'mine', httpOptions: { baseUrl: gateway + '/gemini' } }).models.generateContent(say('hello')),
  model: async () => client.models.generateContent({ ...say('hello'), model: 'without-a-price' }),
  search: async () => client.models.generateContent(say('hello', { tools: [{ googleSearch: {} }] })),
  embed: async () => client.models.embedContent({ model, contents: 'hello' }),
  exhausted: async () => {
    for (let i = 0; i < 100; i++) await client.models.generateContent(say('hello', { maxOutputTokens: 2000 }));
    return 'never refused';
  },
});
