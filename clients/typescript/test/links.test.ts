/** Segments and prerequisites against a real server: FLAGSVC_TARGET has the flags of tests/typescript. */

import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { FlagClient, FlagServiceError } from 'flagsvc-client';

const target = process.env['FLAGSVC_TARGET'];
assert.ok(target, 'FLAGSVC_TARGET names the server');
const client = new FlagClient(target, { timeoutMs: 5_000, actor: 'tests' });
after(() => client.close());
const PRO = '{"==":[{"var":"plan"},"pro"]}';
const STAFF = '{"==":[{"var":"staff"},true]}';

test('a segment is created, used, changed, restored and deleted', async () => {
  const options = { description: 'Who pays', requestId: 'create-ts' };
  const made = await client.createSegment('pays', PRO, options);
  assert.deepEqual(await client.createSegment('pays', PRO, options), made);
  assert.deepEqual([made.rule, made.description, made.etag], [PRO, 'Who pays', '"1"']);
  const before = await client.update('shared', { targeting: '{"if":[{"$ref":"segment:pays"},"on","off"]}' });
  assert.deepEqual((await client.segmentUsers('pays')).flagKeys, ['shared']);
  const planned = await client.updateSegment('pays', { rule: STAFF }, { validateOnly: true });
  assert.deepEqual([planned.flags, (await client.segment('pays')).rule], [['shared'], PRO]);
  const how = { etag: made.etag, reason: 'staff first', requestId: 'update-ts' };
  const done = await client.updateSegment('pays', { rule: STAFF }, how);
  assert.deepEqual(await client.updateSegment('pays', { rule: STAFF }, how), done);
  assert.deepEqual([done.flags, done.segment.rule], [['shared'], STAFF]);
  assert.equal(await client.isEnabled('shared', { staff: true }), true);
  const back = await client.rollbackSet(before.revision, { validateOnly: true });
  assert.deepEqual(back.segments, [{ name: 'pays', action: 'UPDATED' }]);
  await assert.rejects(client.deleteSegment('pays'), FlagServiceError);
  await client.update('shared', { targeting: null });
  await client.deleteSegment('pays', { requestId: 'delete-ts' });
  await client.deleteSegment('pays', { requestId: 'delete-ts' });
  assert.deepEqual(await client.segments(), []);
});

test('a flag needs another one', async () => {
  const prerequisites = [{ flagKey: 'shared', variants: ['on'] }];
  assert.deepEqual((await client.update('needing', { prerequisites })).flag?.prerequisites, prerequisites);
  await assert.rejects(
    client.update('shared', { prerequisites: [{ flagKey: 'needing', variants: ['on'] }] }),
    /shared -> needing -> shared/,
  );
  assert.deepEqual((await client.update('needing', { prerequisites: [] })).flag?.prerequisites, []);
});
