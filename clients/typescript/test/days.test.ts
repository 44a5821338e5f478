/** What a caller sees on bad days. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { FlagClient, type FlagClientOptions } from 'flagsvc-client';
import * as stubs from 'flagsvc-client/stubs';
import { credentials } from '@grpc/grpc-js';
import { nobody, proxy, raw, silent, watched } from './days.ts';

const target = process.env['FLAGSVC_TARGET'];
assert.ok(target, 'FLAGSVC_TARGET names the server');

/** Run with a client that is closed afterwards; `lines` is what it logged. */
async function using(
  to: string,
  options: FlagClientOptions,
  body: (client: FlagClient, lines: string[]) => Promise<void>,
): Promise<void> {
  const lines: string[] = [];
  const client = new FlagClient(to, { log: (line) => lines.push(line), ...options });
  try {
    await body(client, lines);
  } finally {
    client.close();
  }
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 15_000;
  while (!(await condition())) assert.ok(performance.now() < deadline, 'not so after 15 s');
}

test('a server that is down at the start: the default stands, said once, and it is found when it comes', async () => {
  const missing = await nobody();
  await using(missing, {}, async (client, lines) => {
    const found = await client.details('boolean', false);
    assert.deepEqual(
      [found.value, found.reason, found.errorCode, found.source],
      [false, 'ERROR', 'PROVIDER_NOT_READY', 'NONE'],
    );
    await Promise.all(Array.from({ length: 200 }, () => client.isEnabled('boolean')));
    assert.equal(lines.filter((line) => line.includes('UNAVAILABLE')).length, 1);
    assert.match(lines[0]!, /^flagsvc: flag "boolean" could not be evaluated, the default stands: UNAVAILABLE/);
    assert.equal(await client.isEnabled('boolean', {}, { default: true }), true);
    assert.equal((await client.batch({}, { keys: ['a'] })).get('a')?.errorCode, 'PROVIDER_NOT_READY');
    const before = await proxy(target, Number(missing.split(':')[1]));
    await until(() => client.boolean('boolean', false));
    await before.close();
  });
});

test('a server that goes away and comes back: a watch resumes and misses nothing', async () => {
  const between = await proxy(target);
  await using(between.target, { timeoutMs: 2_000 }, async (client) => {
    await using(target, { timeoutMs: 5_000 }, async (operator) => {
      const events = client.watch();
      assert.equal((await events.next()).value?.kind, 'snapshot');
      for (const enabled of [false, true]) {
        between.cut();
        await operator.toggle('cut', enabled);
        let status: string | undefined;
        while (status !== (enabled ? 'ENABLED' : 'DISABLED')) {
          const { value } = await events.next();
          assert.ok(value);
          status =
            value.kind === 'change' ? value.flag?.status : value.flags.find((flag) => flag.key === 'cut')?.status;
        }
      }
      await between.close();
      assert.equal((await client.details('boolean', false)).errorCode, 'PROVIDER_NOT_READY');
      const ended = events.next();
      client.close();
      assert.equal((await ended).done, true);
    });
  });
});

test('a server that accepts and never answers: the default within the deadline', async () => {
  const listener = await silent();
  await using(listener.target, { timeoutMs: 200 }, async (client) => {
    const started = performance.now();
    const found = await client.details('boolean', true);
    assert.deepEqual([found.value, found.errorCode], [true, 'PROVIDER_NOT_READY']);
    assert.ok(performance.now() - started < 2_000);
    await assert.rejects(client.toggle('boolean', true, { waitTimeoutMs: 0 }), { name: 'FlagServiceError', code: 4 });
    const many = Array.from({ length: 2_000 }, () => client.details('boolean', true));
    assert.deepEqual(
      new Set((await Promise.all(many)).map(({ errorCode }) => errorCode)),
      new Set(['PROVIDER_NOT_READY']),
    );
    assert.ok(performance.now() - started < 10_000);
  });
  await listener.close();
});

test('TLS against plaintext', async () => {
  await using(
    target.replace('127.0.0.1', 'localhost'),
    { credentials: credentials.createSsl() },
    async (client, lines) => {
      const found = await client.details('boolean', false);
      assert.deepEqual([found.value, found.errorCode], [false, 'PROVIDER_NOT_READY']);
      assert.equal(lines.length, 1);
    },
  );
});

test('a target that cannot be right is reported when the client is made', () => {
  assert.throws(
    () => new FlagClient('localhost'),
    new TypeError('the target "localhost" has no port; write it as "host:8013" or "dns:///host:8013"'),
  );
  assert.throws(() => new FlagClient('dns:///flagsvc'), TypeError);
});

test('a closed client gives defaults', async () => {
  const client = new FlagClient(target, { log: () => {} });
  client.close();
  client.close();
  assert.deepEqual(
    [await client.boolean('boolean', false), (await client.details('boolean', false)).errorCode],
    [false, 'PROVIDER_NOT_READY'],
  );
  assert.equal((await client.watch().next()).done, true);
  await assert.rejects(client.toggle('boolean', true), /the client is closed/);
});

test('a newer server: reasons, codes, fields and kinds of values that are not known', async () => {
  const unknown = Buffer.from([0xfa, 0x06, 0x01, 0x78]);
  const evaluation = Buffer.from([
    0x12,
    0x02,
    0x10,
    0x01,
    0x1a,
    0x02,
    0x6f,
    0x6e,
    0x20,
    99,
    0x28,
    77,
    0x48,
    55,
    0x60,
    44,
    ...unknown,
  ]);
  const strange = Buffer.from([0x12, 0x04, ...unknown, 0x1a, 0x02, 0x6f, 0x6e, 0x20, 1]);
  const entry = (bytes: Buffer) => Buffer.concat([Buffer.from([0x0a, bytes.length]), bytes, unknown]);
  for (const [bytes, expected] of [
    [evaluation, [true, 'UNKNOWN', 'GENERAL', 'NONE', '']],
    [strange, [false, 'ERROR', 'GENERAL', 'NONE', '']],
  ] as const) {
    const server = await raw({ EvaluateFlag: entry(bytes) });
    await using(server.target, { timeoutMs: 5_000 }, async (client) => {
      const { value, reason, errorCode, source, status } = await client.details('any', false);
      assert.deepEqual([value, reason, errorCode, source, status], expected);
    });
    server.close();
  }
});

test('an answer that is no message', async () => {
  const server = await raw({ EvaluateFlag: Buffer.from([0x0a, 0x7f, 0x01]) });
  await using(server.target, { timeoutMs: 5_000 }, async (client) => {
    const found = await client.details('any', 'mine');
    assert.deepEqual([found.value, found.reason, found.errorCode], ['mine', 'ERROR', 'GENERAL']);
  });
  server.close();
});

test('a client asks for its own writes on every replica', async () => {
  const spread = stubs.ToggleFlagResponse.encode(
    stubs.ToggleFlagResponse.fromPartial({ spread: { revision: 41n } }),
  ).finish();
  const server = await raw({ ToggleFlag: Buffer.from(spread), EvaluateFlag: Buffer.from([0x0a, 0x00]) });
  await using(server.target, { timeoutMs: 5_000 }, async (client) => {
    await client.isEnabled('any');
    await client.toggle('any', true);
    await client.isEnabled('any');
    await client.isEnabled('any', {}, { minRevision: 7n });
    await client.isEnabled('any', {}, { minRevision: 77n });
  });
  const asked = server.asked
    .get('EvaluateFlag')!
    .map((request) => stubs.EvaluateFlagRequest.decode(request).minRevision);
  assert.deepEqual(asked, [0n, 41n, 41n, 77n]);
  server.close();
});

test('a watch that meets a replica which lags behind does not go back', async () => {
  const message = (fields: Parameters<typeof stubs.WatchFlagsResponse.fromPartial>[0]) =>
    Buffer.from(stubs.WatchFlagsResponse.encode(stubs.WatchFlagsResponse.fromPartial(fields)).finish());
  const snapshot = (key: string, resumeRevision: bigint) =>
    message({ event: { $case: 'snapshot', value: { flags: [{ key }] } }, resumeRevision });
  const server = await watched([
    [snapshot('new', 10n), message({ event: { $case: 'heartbeat', value: {} }, resumeRevision: 12n })],
    [snapshot('old', 5n)],
    [
      message({ resumeRevision: 12n }),
      message({ event: { $case: 'change', value: { flagKey: 'gone', revision: 13n } }, resumeRevision: 13n }),
    ],
  ]);
  const seen: unknown[] = [];
  await using(server.target, {}, async (client) => {
    for await (const event of client.watch()) {
      seen.push(event.kind === 'snapshot' ? event.flags.map(({ key }) => key) : event);
      if (event.kind === 'change') break;
    }
  });
  assert.deepEqual(seen, [['new'], { kind: 'change', key: 'gone', revision: 13n }]);
  assert.deepEqual(
    server.asked.map((request) => stubs.WatchFlagsRequest.decode(request).resumeRevision),
    [0n, 12n, 12n],
  );
  server.close();
});

test('a process that forgets to close its client ends all the same, also one written for require()', () => {
  const code = `const { FlagClient } = require("flagsvc-client");
    new FlagClient(${JSON.stringify(target)}, { timeoutMs: 5000 }).boolean("boolean", false).then((value) => console.log("value", value));`;
  const ran = spawnSync(process.execPath, ['--input-type=commonjs', '--eval', code], {
    encoding: 'utf8',
    timeout: 20_000,
  });
  assert.deepEqual([ran.stdout, ran.status, ran.stderr], ['value true\n', 0, '']);
  assert.ok(createRequire(import.meta.url).resolve('flagsvc-client'));
});
