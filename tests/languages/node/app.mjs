// An application with an unmodified provider for Node, driven by JSON lines as ../go/main.go is: MODE HOST PORT SELECTOR.
// MODE: rpc, in-process, ofrep or multi. In its environment: CA, TOKEN and OFREP_PORT, as there; NODE_EXTRA_CA_CERTS is fetch's.
import { createInterface } from 'node:readline';
import { FlagdProvider } from '@openfeature/flagd-provider';
import { OFREPProvider } from '@openfeature/ofrep-provider';
import { MultiProvider, OpenFeature, ProviderEvents } from '@openfeature/server-sdk';
import { answered, askedOf, headersOf, silent } from './asking.mjs';

const [mode, host, port, selector] = process.argv.slice(2);
const { CA, TOKEN, OFREP_PORT } = process.env;
const options = { host, port: Number(port), ...(selector && { selector }), ...(CA && { tls: true, certPath: CA }) };
const rpc = () => new FlagdProvider(options);
const ofrep = (port) => new OFREPProvider({ baseUrl: `${CA ? 'https' : 'http'}://${host}:${port}`, headers: headersOf(selector, TOKEN) });
const providers = {
  rpc,
  'in-process': () => new FlagdProvider({ ...options, resolverType: 'in-process' }),
  ofrep: () => ofrep(port),
  multi: () => new MultiProvider([{ provider: rpc() }, { provider: ofrep(OFREP_PORT) }]),
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
