// An application with an unmodified provider for Node, driven by JSON lines as ../go/main.go is: MODE HOST PORT SELECTOR.
// MODE: rpc, in-process or ofrep.
import { createInterface } from 'node:readline';
import { FlagdProvider } from '@openfeature/flagd-provider';
import { OFREPProvider } from '@openfeature/ofrep-provider';
import { OpenFeature, ProviderEvents } from '@openfeature/server-sdk';
import { answered, askedOf, headersOf, silent } from './asking.mjs';

const [mode, host, port, selector] = process.argv.slice(2);
const options = { host, port: Number(port), ...(selector && { selector }) };
const providers = {
  rpc: () => new FlagdProvider(options),
  'in-process': () => new FlagdProvider({ ...options, resolverType: 'in-process' }),
  ofrep: () => new OFREPProvider({ baseUrl: `http://${host}:${port}`, ...headersOf(selector) }),
};
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

OpenFeature.setLogger(silent);
for (const event of Object.values(ProviderEvents)) {
  OpenFeature.addHandler(event, (details) => say({ event, flags: details?.flagsChanged ?? [] }));
}
try {
  await OpenFeature.setProviderAndWait(providers[mode]());
} catch (error) {
  say({ failed: error.message });
}
const client = OpenFeature.getClient();
for await (const line of createInterface({ input: process.stdin })) {
  const { id, kind, key, default: value, context } = JSON.parse(line);
  say(answered(id, await askedOf(client, kind).call(client, key, value, context)));
}
process.exit(0);
