// An application with the unmodified Node provider, driven by JSON lines.
//
// Argument: the provider's options as JSON; none: its defaults.
// Standard input: {"id", "kind", "key", "default", "context"}, one evaluation a line; its end closes the application.
// Standard output: {"id", "value", ...} for each evaluation, and {"event", "flags", "at"} for each event that a handler
// sees; "at" is the machine's monotonic clock in nanoseconds, as text.
import { createInterface } from 'node:readline';
import { FlagdProvider } from '@openfeature/flagd-provider';
import { OpenFeature, ProviderEvents } from '@openfeature/server-sdk';

const silent = { error() {}, warn() {}, info() {}, debug() {} };
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

OpenFeature.setLogger(silent);
const client = OpenFeature.getClient('app');
for (const event of Object.values(ProviderEvents)) {
  client.addHandler(event, (details) =>
    say({ event, flags: details?.flagsChanged ?? [], at: String(process.hrtime.bigint()) }),
  );
}

const options = process.argv[2] ? [JSON.parse(process.argv[2])] : [];
try {
  await OpenFeature.setProviderAndWait('app', new FlagdProvider(...options));
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

for await (const line of createInterface({ input: process.stdin })) {
  const { id, kind, key, default: value, context } = JSON.parse(line);
  const found = await ask[kind].call(client, key, value, context);
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
