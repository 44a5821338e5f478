// An application with the unmodified OFREP web provider, driven by JSON lines as app.mjs is.
//
// Argument: the provider's options as JSON. Standard input and output: as app.mjs; a question with another context than
// the one before changes the application's context, as a page does when somebody logs in.
// node --experimental-eventsource: the provider's event streams need what browsers have.
import { createInterface } from 'node:readline';
import { OFREPWebProvider } from '@openfeature/ofrep-web-provider';
import { OpenFeature, ProviderEvents } from '@openfeature/web-sdk';

const silent = { error() {}, warn() {}, info() {}, debug() {} };
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

OpenFeature.setLogger(silent);
const client = OpenFeature.getClient('app');
for (const event of Object.values(ProviderEvents)) {
  client.addHandler(event, (details) =>
    say({ event, flags: details?.flagsChanged ?? [], at: String(process.hrtime.bigint()) }),
  );
}

// Node has no place for a page's own cache.
const options = { cacheMode: 'disabled', ...JSON.parse(process.argv[2]) };
try {
  await OpenFeature.setProviderAndWait('app', new OFREPWebProvider(options));
} catch (error) {
  say({ failed: error.message });
  process.exit(1);
}

const ask = {
  boolean: client.getBooleanDetails,
  string: client.getStringDetails,
  number: client.getNumberDetails,
  object: client.getObjectDetails,
};

let known = '{}';
for await (const line of createInterface({ input: process.stdin })) {
  const { id, kind, key, default: value, context } = JSON.parse(line);
  const given = JSON.stringify(context);
  if (given !== known) {
    await OpenFeature.setContext('app', context);
    known = given;
  }
  const found = ask[kind].call(client, key, value);
  say({
    id,
    value: found.value,
    reason: found.reason ?? null,
    variant: found.variant ?? null,
    errorCode: found.errorCode ?? null,
    metadata: found.flagMetadata ?? {},
  });
}
await OpenFeature.close();
process.exit(0);
