/** The client against a real server: FLAGSVC_TARGET has the flags of tests/typescript. */

import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { FlagClient, FlagServiceError } from 'flagsvc-client';
import * as stubs from 'flagsvc-client/stubs';
import { credentials } from '@grpc/grpc-js';

const target = process.env['FLAGSVC_TARGET'];
assert.ok(target, 'FLAGSVC_TARGET names the server');
const lines: string[] = [];
const client = new FlagClient(target, { timeoutMs: 5_000, log: (line) => lines.push(line) });
after(() => client.close());

test('values of every type', async () => {
  assert.equal(await client.boolean('boolean', false), true);
  assert.equal(await client.string('string', '-'), '#00f');
  assert.equal(await client.number('float', 0.5), 0.75);
  assert.equal(await client.number('integer', 1), 9_000_000);
  assert.equal(await client.integer('integer', 1n), 9_000_000n);
  assert.deepEqual(await client.object('object', {}), {
    dark: true,
    size: 12,
    fonts: ['serif', 'mono'],
    border: { width: 1.5 },
  });
});

test('a whole number of 64 bits keeps its last digit', async () => {
  assert.equal(await client.integer('huge', 0n), 9_007_199_254_740_993n);
  assert.equal((await client.batch({}, { keys: ['huge'] })).get('huge')?.value, 9_007_199_254_740_993n);
});

test('isEnabled', async () => {
  assert.equal(await client.isEnabled('boolean'), true);
  assert.equal(await client.isEnabled('disabled'), false);
  assert.equal(await client.isEnabled('nowhere'), false);
  assert.equal(await client.isEnabled('nowhere', {}, { default: true }), false);
  assert.equal(await client.isEnabled('string'), false);
});

test('details tell how it came about', async () => {
  const found = await client.details('boolean', false);
  assert.deepEqual(
    { ...found, revision: found.revision > 0n, ageMs: typeof found.ageMs },
    {
      flagKey: 'boolean',
      value: true,
      variant: 'on',
      reason: 'STATIC',
      errorMessage: '',
      flagMetadata: { team: 'web', rank: 3, live: true },
      revision: true,
      source: 'NEAR_CACHE',
      ageMs: 'number',
      status: 'ENABLED',
      enabled: true,
    },
  );
});

test('a context decides', async () => {
  const swiss = await client.details('by-country', '-', { targetingKey: 'user-7', country: 'CH', ignored: undefined });
  assert.deepEqual([swiss.value, swiss.reason], ['#00f', 'TARGETING_MATCH']);
  assert.equal(await client.string('by-country', '-', { country: 'FR' }), '#f00');
  assert.equal(await client.string('by-key', '-', { targetingKey: 'user-7' }), '#00f');
  assert.equal(await client.boolean('since', false, { at: new Date(Date.UTC(2031, 0)) }), true);
});

test('where a flag has no value the default stands', async () => {
  const disabled = await client.details('disabled', true);
  assert.deepEqual(
    [disabled.value, disabled.reason, disabled.variant, disabled.status],
    [true, 'DISABLED', undefined, 'DISABLED'],
  );
  const unknown = await client.details('nowhere', 'mine');
  assert.deepEqual([unknown.value, unknown.reason, unknown.errorCode], ['mine', 'ERROR', 'FLAG_NOT_FOUND']);
  const mismatch = await client.details('string', 5);
  assert.deepEqual([mismatch.value, mismatch.reason, mismatch.errorCode], [5, 'ERROR', 'TYPE_MISMATCH']);
});

test('a default of the wrong type is found at once', async () => {
  const wrong = client as unknown as Record<string, (key: string, standing: unknown) => Promise<unknown>>;
  await assert.rejects(
    () => wrong['boolean']!('boolean', 'yes'),
    new TypeError('the default is a string; it must be a boolean'),
  );
  await assert.rejects(() => wrong['number']!('integer', undefined), TypeError);
  await assert.rejects(() => wrong['details']!('object', [1]), /the default is an array/);
  await assert.rejects(() => wrong['details']!('object', null), /the default is null/);
});

test('a context that cannot be sent is an error of the evaluation', async () => {
  const holdsItself: Record<string, never> = {};
  Object.assign(holdsItself, { again: holdsItself });
  for (const value of [Number.NaN, 2n ** 63n, holdsItself, new Date(Number.NaN), new Map(), () => 1]) {
    const found = await client.details('boolean', false, { value: value as never });
    assert.deepEqual([found.value, found.reason, found.errorCode], [false, 'ERROR', 'INVALID_CONTEXT'], String(value));
  }
  const large = await client.details('boolean', false, { value: 'x'.repeat(70_000) });
  assert.deepEqual([large.value, large.errorCode], [false, 'INVALID_CONTEXT']);
});

test('a key that is no text is an error of the evaluation too', async () => {
  for (const key of [undefined, 5, {}]) {
    const found = await client.details(key as never, 'mine');
    assert.deepEqual([found.value, found.reason], ['mine', 'ERROR']);
  }
  assert.equal((await client.details('', 'mine')).errorCode, 'GENERAL');
});

test('a batch', async () => {
  const some = await client.batch({ country: 'CH' }, { keys: ['by-country', 'nowhere', 'disabled'] });
  const found = [...some].map(([key, found]) => [key, found.value, found.reason, found.errorCode]);
  assert.deepEqual(found, [
    ['by-country', '#00f', 'TARGETING_MATCH', undefined],
    ['nowhere', undefined, 'ERROR', 'FLAG_NOT_FOUND'],
    ['disabled', undefined, 'DISABLED', undefined],
  ]);
  const all = await client.batch();
  assert.ok(all.size > 10 && all.has('boolean'));
  assert.equal((await client.batch({}, { keys: [] })).size, 0);
});

test('a toggle is seen by the next evaluation and by a watch', async () => {
  const seen: unknown[] = [];
  for await (const event of client.watch()) {
    if (event.kind === 'snapshot') {
      seen.push(
        event.flags.some(
          (flag) => flag.key === 'toggled' && flag.status === 'ENABLED' && flag.updatedAt instanceof Date,
        ),
      );
      const written = await client.toggle('toggled', false, { reason: 'a test' });
      assert.ok(written.revision > 0n && written.reached !== '' && written.flag?.status === 'DISABLED');
      assert.equal(await client.isEnabled('toggled'), false);
    } else {
      seen.push([event.key, event.flag?.status]);
      break;
    }
  }
  assert.deepEqual(seen, [true, ['toggled', 'DISABLED']]);
});

test('a failed write rejects with what the server said', async () => {
  await assert.rejects(client.toggle('nowhere', true), (error) => {
    assert.ok(error instanceof FlagServiceError);
    assert.deepEqual([error.code, error.reason, error.metadata.get('flagKey')], [5, 'FLAG_NOT_FOUND', 'nowhere']);
    return true;
  });
  await assert.rejects(client.toggle('toggled', true, { etag: '"1000000"' }), { reason: 'FLAG_VERSION_CONFLICT' });
  await assert.rejects(
    client.toggle('', true),
    (error) => error instanceof FlagServiceError && error.violations[0]?.field === 'flag_key',
  );
});

test('a watch ends at its signal, and where the server refuses it', async () => {
  const kinds: string[] = [];
  const signal = AbortSignal.timeout(300);
  for await (const event of client.watch({ signal })) kinds.push(event.kind);
  assert.deepEqual(kinds, ['snapshot']);
  const refused = new FlagClient(target, { flagSet: 'x'.repeat(300) });
  await assert.rejects(refused.watch().next(), (error) => error instanceof FlagServiceError && error.code === 3);
  refused.close();
});

test('a flag set of its own', async () => {
  const tenant = new FlagClient(target, { flagSet: 'tenant-a', timeoutMs: 5_000, log: () => {} });
  assert.equal(await tenant.boolean('boolean', true), false);
  assert.equal((await tenant.details('string', '-')).errorCode, 'FLAG_NOT_FOUND');
  tenant.close();
});

test('errors are raised where that was asked for, but not for an answer', async () => {
  const raising = new FlagClient(target, { raiseErrors: true, timeoutMs: 5_000 });
  await assert.rejects(raising.boolean('boolean', true, { value: Number.NaN }), {
    name: 'FlagServiceError',
    reason: 'INVALID_CONTEXT',
  });
  await assert.rejects(raising.boolean('boolean', true, {}, { minRevision: 2n ** 60n }), {
    reason: 'REVISION_UNAVAILABLE',
  });
  assert.equal(await raising.string('nowhere', 'mine'), 'mine');
  raising.close();
});

test('more concurrent calls than a connection takes', async () => {
  const count = Number(process.env['FLAGSVC_CALLS'] ?? 10_000);
  const calls = Array.from({ length: count }, (_, number) =>
    client.details('by-country', '-', { number, country: 'CH' }, { timeoutMs: 60_000 }),
  );
  const found = await Promise.all(calls);
  const kinds = new Set(found.map(({ value, reason, errorMessage }) => `${value} ${reason} ${errorMessage}`));
  assert.deepEqual([...kinds], ['#00f TARGETING_MATCH ']);
});

test('the stubs reach everything else', async () => {
  const stub = new stubs.FlagServiceClient(target, credentials.createInsecure());
  const request = stubs.GetFlagRequest.fromPartial({ flagKey: 'boolean' });
  const { flag } = await new Promise<stubs.GetFlagResponse>((resolve, reject) => {
    stub.getFlag(request, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
  assert.equal(flag?.status, stubs.FlagStatus.FLAG_STATUS_ENABLED);
  stub.close();
});
