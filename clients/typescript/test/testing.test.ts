/** The in-memory client: what code under test sees, and flagd's rules with the answers that Python has too. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import { FlagClient, FlagServiceError } from 'flagsvc-client';
import { InMemoryFlagClient, type Rules, StrictError } from 'flagsvc-client/testing';

const root = new URL('../../../', import.meta.url);
const VALUES = { on: true, off: false, gone: null, text: 'blue', limit: 7, huge: 9_007_199_254_740_993n, box: { a: [1] } };

test('values of every type', async () => {
  const flags: FlagClient = new InMemoryFlagClient(VALUES);
  assert.equal(await flags.isEnabled('on'), true);
  assert.equal(await flags.isEnabled('off', {}, { default: true }), false);
  assert.equal(await flags.isEnabled('nowhere', {}, { default: true }), false);
  assert.equal(await flags.boolean('gone', true), true);
  assert.equal(await flags.string('text', '-'), 'blue');
  assert.equal(await flags.number('limit', 1), 7);
  assert.equal(await flags.integer('limit', 1n), 7n);
  assert.equal(await flags.integer('huge', 1n), 9_007_199_254_740_993n);
  assert.deepEqual(await flags.object('box', {}), { a: [1] });
  const all = await flags.batch();
  assert.deepEqual([...all.keys()], Object.keys(VALUES));
  assert.deepEqual([all.get('text')?.value, all.get('gone')?.value], ['blue', undefined]);
});

test('where there is no value the default stands, and says why', async () => {
  const flags = new InMemoryFlagClient(VALUES);
  const unknown = await flags.details('txt', 'mine');
  assert.deepEqual([unknown.value, unknown.errorCode], ['mine', 'FLAG_NOT_FOUND']);
  assert.equal((await flags.details('text', 5)).errorCode, 'TYPE_MISMATCH');
  assert.equal((await flags.details('gone', 5)).reason, 'DISABLED');
  assert.equal((await flags.details('on', true, { f: (() => 1) as never })).errorCode, 'INVALID_CONTEXT');
  await assert.rejects(flags.boolean('on', 'yes' as never), TypeError);
});

test('strict mode rejects what would be a default', async () => {
  const flags = new InMemoryFlagClient(VALUES, { strict: true });
  assert.equal(await flags.isEnabled('on'), true);
  await assert.rejects(flags.isEnabled('onn'), (error) => error instanceof StrictError && /no flag "onn"/.test(error.message));
  await assert.rejects(flags.string('limit', '-'), StrictError);
});

test('overrides end, toggles stay, and a watch sees both', async () => {
  const flags = new InMemoryFlagClient(VALUES);
  const events = flags.watch();
  assert.equal((await events.next()).value?.kind, 'snapshot');
  const restore = flags.override('text', 'red');
  assert.equal(await flags.string('text', '-'), 'red');
  restore();
  assert.equal(await flags.string('text', '-'), 'blue');
  flags.override('new', true)();
  assert.equal((await flags.details('new', false)).errorCode, 'FLAG_NOT_FOUND');
  const written = await flags.toggle('on', false);
  assert.deepEqual([written.reached, await flags.isEnabled('on')], ['APPLIED', false]);
  await assert.rejects(flags.toggle('nowhere', true), FlagServiceError);
  const seen = [];
  for (let count = 0; count < 5; count += 1) seen.push((await events.next()).value);
  assert.deepEqual(
    seen.map((event) => event?.kind === 'change' && event.key),
    ['text', 'text', 'new', 'new', 'on'],
  );
  flags.close();
  assert.equal((await events.next()).done, true);
});

test('rules are evaluated by flagd and answer as Python does', async () => {
  const { FlagdCore } = createRequire(new URL('tests/providers/node/app.mjs', root))('@openfeature/flagd-core');
  const shared = JSON.parse(readFileSync(new URL('tests/shared/conformance.json', root), 'utf8'));
  const core = new FlagdCore() as Rules & { setConfigurations(text: string): unknown };
  core.setConfigurations(JSON.stringify(shared.flags));
  const flags = new InMemoryFlagClient({}, { flagd: core });
  const wrong: unknown[] = [];
  for (const [key, , standing, context, value, variant, reason, error] of shared.cases) {
    const found = await flags.details(key, standing, shared.contexts[context]);
    const answer = [found.value, found.variant ?? null, found.reason, found.errorCode ?? null];
    try {
      assert.deepEqual(answer, [value, variant, reason, error]);
    } catch {
      wrong.push([key, context, answer]);
    }
  }
  assert.deepEqual(wrong, []);
  assert.equal(shared.cases.length, 633);
  flags.set('static', 'mine');
  assert.equal(await flags.string('static', '-'), 'mine');
});
