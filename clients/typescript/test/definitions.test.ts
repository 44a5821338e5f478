/** Definitions and their history against a real server: FLAGSVC_TARGET has the flags of tests/typescript. */

import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { FlagClient, type FlagFields } from 'flagsvc-client';
import { InMemoryFlagClient } from 'flagsvc-client/testing';

const target = process.env['FLAGSVC_TARGET'];
assert.ok(target, 'FLAGSVC_TARGET names the server');
const client = new FlagClient(target, { flagSet: 'made', timeoutMs: 5_000, actor: 'tests' });
after(() => client.close());

test('a flag is created with all its fields, once for a request id', async () => {
  const fields: FlagFields = {
    name: 'Made here',
    description: 'a',
    category: 'search',
    status: 'ENABLED',
    owner: 'web',
    config: { a: [1] },
    variants: { red: '#f00', blue: '#00f' },
    defaultVariant: 'blue',
    targeting: '{"if":["always","red","blue"]}',
    metadata: { team: 'web' },
    prerequisites: [],
  };
  const checked = await client.create('made', fields, { validateOnly: true });
  assert.deepEqual([checked.flag?.name, checked.reached, checked.revision], ['Made here', '', 0n]);
  assert.match(checked.notes?.[0] ?? '', /\$\.if\[0\]/);
  await assert.rejects(client.flag('made'), { reason: 'FLAG_NOT_FOUND' });
  const options = { reason: 'launch', onBehalfOf: 'anna', waitFor: 'APPLIED', requestId: 'create-flag-ts' } as const;
  const made = await client.create('made', fields, options);
  const { flag } = made;
  assert.ok(flag);
  assert.deepEqual([made.reached, flag.flagSet, flag.revision], ['APPLIED', 'made', made.revision]);
  assert.deepEqual({ ...flag, ...fields }, flag);
  assert.deepEqual(made.notes, checked.notes);
  assert.equal((await client.create('made', fields, options)).revision, made.revision);
  assert.deepEqual(await client.flag('made'), flag);
  assert.equal(await client.string('made', '-'), '#f00');
  await assert.rejects(client.create('made'), { reason: 'FLAG_ALREADY_EXISTS' });
  const [entry, ...others] = await client.history('made');
  assert.deepEqual([entry?.action, entry?.reason, entry?.actor, others], ['CREATED', 'launch', 'anna', []]);
});

test('a flag without fields is a switch that is off', async () => {
  const { flag } = await client.create('plain');
  assert.deepEqual([flag?.status, flag?.name, flag?.variants], ['DISABLED', 'plain', {}]);
});

test('a flag is deleted, and its history stays', async () => {
  const made = await client.create('short-lived', { status: 'ENABLED', owner: 'web' });
  const etag = made.flag?.etag ?? '';
  const off = await client.toggle('short-lived', false, { reason: 'broken' });
  await assert.rejects(client.delete('short-lived', { etag }), { reason: 'FLAG_VERSION_CONFLICT' });
  const plan = await client.schedule('short-lived', '2031-01-01T09:00', { status: 'BETA' });
  const options = { etag: off.flag?.etag ?? '', reason: 'done', onBehalfOf: 'anna', requestId: 'delete-flag-ts' };
  const checked = await client.delete('short-lived', { ...options, requestId: '', validateOnly: true });
  assert.deepEqual([checked.flag, checked.reached], [undefined, '']);
  assert.equal((await client.flag('short-lived')).status, 'DISABLED');
  const gone = await client.delete('short-lived', options);
  assert.ok(gone.revision > off.revision && gone.reached !== '' && gone.flag === undefined);
  assert.match(gone.scheduleNotes?.[0] ?? '', new RegExp(plan.id));
  assert.equal((await client.delete('short-lived', options)).revision, gone.revision);
  await assert.rejects(client.flag('short-lived'), { reason: 'FLAG_NOT_FOUND' });
  await assert.rejects(client.delete('short-lived'), { reason: 'FLAG_NOT_FOUND' });

  const [deleted, disabled, created] = await client.history('short-lived');
  assert.ok(deleted && disabled && created && Math.abs(Date.now() - deleted.createdAt.getTime()) < 3_600_000);
  const { createdAt: _, previous, ...rest } = deleted;
  assert.equal((previous as FlagFields).owner, 'web');
  assert.deepEqual(rest, {
    flagKey: 'short-lived',
    action: 'DELETED',
    actor: 'anna',
    onBehalfOf: '',
    reason: 'done',
    revision: gone.revision,
    restoredRevision: 0n,
    via: '',
  });
  const changed = [disabled.action, (disabled.previous as FlagFields).status, (disabled.new as FlagFields).status];
  assert.deepEqual(changed, ['DISABLED', 'ENABLED', 'DISABLED']);
  assert.deepEqual([created.action, created.previous, created.revision], ['CREATED', undefined, made.revision]);

  assert.deepEqual(await client.history('short-lived', 1), [deleted]);
  assert.deepEqual(await client.history('nowhere'), []);
  const back = await client.rollback('short-lived', made.revision);
  const [restored] = await client.history('short-lived', 1);
  assert.deepEqual([restored?.revision, restored?.restoredRevision], [back.revision, made.revision]);
});

test('all flags of a set are listed, over several pages', async () => {
  const many = new FlagClient(target, { flagSet: 'many', timeoutMs: 30_000 });
  const keys = Array.from({ length: 501 }, (_, index) => `flag-${String(index).padStart(3, '0')}`);
  for (let index = 0; index < keys.length; index += 20) {
    await Promise.all(keys.slice(index, index + 20).map((key) => many.create(key, { metadata: { key } })));
  }
  const found = await many.flags();
  assert.deepEqual(found.map(({ key, metadata }) => [key, metadata['key']]), keys.map((key) => [key, key]));
  const nothing = new FlagClient(target, { flagSet: 'nothing', timeoutMs: 5_000 });
  assert.deepEqual(await nothing.flags(), []);
  nothing.close();
  many.close();
});

test('flags in memory have no definitions', async () => {
  const memory = new InMemoryFlagClient({ a: true });
  for (const call of [memory.flags(), memory.history('a'), memory.create('b'), memory.delete('a')]) {
    await assert.rejects(call, /no definitions/);
  }
  memory.close();
});
