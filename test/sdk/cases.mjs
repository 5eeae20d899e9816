// What all scripts here share: an SDK from the folder of packages, and cases whose outcome is a line of JSON each.
import { createRequire } from 'node:module';

export const load = createRequire(process.env.PACKAGES + '/package.json');
export const { GATEWAY: gateway, HANDLE: handle } = process.env;

// A picture of one pixel.
export const picture = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';

// play carries out the cases that are named as arguments, or all of them.
export async function play(cases) {
  const named = process.argv.slice(2);
  for (const name of named.length ? named : Object.keys(cases)) {
    let line;
    try {
      line = { says: await cases[name]() };
    } catch (e) {
      line = { error: e.constructor.name, status: e.status, message: String(e.message), code: e.code ?? null, type: e.type ?? null };
    }
    console.log(JSON.stringify({ case: name, ...line }));
  }
}

// count reads a stream to its end, or until enough of its events came; what of an event counts is for text to say.
export async function read(stream, text, enough = Infinity) {
  let all = '', n = 0;
  for await (const event of stream) {
    all += text(event) ?? '';
    if (++n >= enough) break;
  }
  return all;
}
