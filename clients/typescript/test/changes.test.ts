/** Revisions, schedules and rollouts against a real server: FLAGSVC_TARGET has the flags of tests/typescript. */

import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { FlagClient, type FlagFields, FlagServiceError } from 'flagsvc-client';
import { InMemoryFlagClient } from 'flagsvc-client/testing';

const target = process.env['FLAGSVC_TARGET'];
assert.ok(target, 'FLAGSVC_TARGET names the server');
const client = new FlagClient(target, { timeoutMs: 5_000, actor: 'tests' });
after(() => client.close());
const DAY_MS = 86_400_000;

test('a flag as of another moment, and back', async () => {
  const first = await client.update('past', { name: 'first', description: 'a', metadata: { team: 'web' } });
  const off = await client.toggle('past', false, { reason: 'broken' });
  assert.equal((await client.flagAt('past', first.revision)).status, 'ENABLED');
  assert.equal((await client.flag('past')).status, 'DISABLED');
  assert.equal((await client.detailsAt('past', first.revision, false)).value, true);
  assert.equal((await client.detailsAt('past', new Date(Date.now() + DAY_MS), true)).reason, 'DISABLED');
  assert.equal((await client.batchAt(first.revision, {}, { keys: ['past'] })).get('past')?.enabled, true);
  const [newest, before] = await client.revisions('past', 2);
  assert.deepEqual(
    [newest?.revision, newest?.action, newest?.reason, newest?.actor, before?.revision],
    [off.revision, 'DISABLED', 'broken', 'tests', first.revision],
  );
  const checked = await client.rollback('past', first.revision, { validateOnly: true });
  assert.deepEqual([checked.flag?.status, checked.reached, checked.revision], ['ENABLED', '', off.revision]);
  const planned = await client.rollbackSet(first.revision, { validateOnly: true });
  assert.deepEqual(
    planned.flags.filter(({ flagKey }) => flagKey === 'past').map(({ action, fields }) => [action, fields]),
    [['UPDATED', ['status']]],
  );
  assert.equal(planned.written, undefined);
  const back = await client.rollback('past', first.revision, { etag: off.flag?.etag ?? '', requestId: 'back-1' });
  const again = await client.rollback('past', first.revision, { etag: off.flag?.etag ?? '', requestId: 'back-1' });
  assert.equal(again.revision, back.revision);
  await assert.rejects(client.rollbackSet(first.revision, { requestId: 'back-1' }), /a new id for a new write/);
  await assert.rejects(client.flagAt('past', 0n), TypeError);
  await assert.rejects(client.flagAt('nowhere', first.revision), FlagServiceError);
});

test('a change is planned, moved, executed and cancelled', async () => {
  const patch: FlagFields = { status: 'BETA', owner: 'web', config: { a: [1] }, description: null };
  const plan = await client.schedule('planned', '2030-12-01T09:00', patch, { zone: 'Europe/Berlin', reason: 'launch' });
  const named = { zone: 'UTC', requestId: 'plan-ts' };
  const twice = [1, 2].map(() => client.schedule('planned', '2031-01-01T09:00', { status: 'BETA' }, named));
  const [once, again] = await Promise.all(twice);
  assert.equal(once?.id, again?.id);
  assert.equal((await client.cancelSchedule(once?.id ?? '', { validateOnly: true })).state, 'CANCELLED');
  assert.equal((await client.cancelSchedule(once?.id ?? '')).state, 'CANCELLED');
  const checked = await client.schedule('planned', '2031-01-01T09:00', { status: 'BETA' }, { validateOnly: true });
  assert.equal(checked.state, 'PENDING');
  assert.equal(plan.localTime, '2030-12-01T09:00:00+01:00');
  assert.deepEqual([plan.changes, plan.status], [['status', 'owner', 'config', 'description'], 'BETA']);
  const moved = await client.moveSchedule(plan.id, new Date(Date.now() + DAY_MS), { etag: plan.etag });
  assert.deepEqual([moved.state, moved.zone], ['PENDING', 'Europe/Berlin']);
  assert.deepEqual((await client.schedules('planned')).map(({ id }) => id), [plan.id]);
  const touched = await client.toggle('planned', false, { validateOnly: true });
  assert.equal(touched.reached, '');
  assert.equal((await client.executeSchedule(plan.id, { validateOnly: true })).executedRevision, 0n);
  const executing = [1, 2].map(() => client.executeSchedule(plan.id, { reason: 'now', requestId: 'execute-ts' }));
  const [done, repeated] = await Promise.all(executing);
  assert.ok(done);
  assert.deepEqual([done.state, repeated], ['EXECUTED', done]);
  assert.equal((await client.flag('planned')).owner, 'web');
  assert.equal((await client.getSchedule(plan.id)).executedRevision, done.executedRevision);
  const later = await client.schedule('planned', new Date(Date.now() + DAY_MS), { status: 'DISABLED' });
  assert.equal((await client.cancelSchedule(later.id, { reason: 'no' })).state, 'CANCELLED');
  const cancelled = (await client.schedules('planned', ['CANCELLED'])).map(({ id }) => id);
  assert.deepEqual(cancelled, [later.id, once?.id]);
  await assert.rejects(client.schedule('planned', new Date(0), { status: 'BETA' }), FlagServiceError);
});

test('a rollout is begun, paused, resumed and rolled back', async () => {
  const steps = [
    [0, 20],
    [DAY_MS, 100],
  ] as const;
  const begun = await client.startRollout('moving', 'off', 'on', { steps });
  const running = await client.rollout('moving');
  assert.deepEqual(
    [running.state, running.share, running.nextShare, running.from, running.to, running.bucketBy],
    ['RUNNING', 20, 100, 'off', 'on', 'targetingKey'],
  );
  const checked = await client.pauseRollout('moving', { validateOnly: true });
  assert.deepEqual([checked.rollout.state, checked.revision], ['PAUSED', begun.revision]);
  const paused = await client.pauseRollout('moving', { requestId: 'pause-ts' });
  assert.equal((await client.pauseRollout('moving', { requestId: 'pause-ts' })).revision, paused.revision);
  assert.deepEqual([paused.rollout.share, paused.rollout.nextTime], [20, undefined]);
  assert.ok(paused.rollout.pausedAt);
  assert.equal((await client.resumeRollout('moving')).rollout.state, 'RUNNING');
  await client.startRollout('moving', 'off', 'on', { overMs: DAY_MS });
  const faster = await client.rollout('moving');
  assert.ok(faster.linear && faster.share >= 20, 'from the share that stands');
  const back = await client.rollbackRollout('moving', { overMs: 0 });
  assert.deepEqual([back.rollout.state, back.rollout.share], ['FINISHED', 0]);
});

test('flags in memory say what they do not have', async () => {
  const memory = new InMemoryFlagClient({ a: true });
  assert.equal((await memory.toggle('a', false, { validateOnly: true })).reached, '');
  assert.equal(await memory.isEnabled('a'), true);
  await assert.rejects(memory.revisions('a'), /flags in memory have evaluations, toggles and watches only/);
  memory.close();
});
