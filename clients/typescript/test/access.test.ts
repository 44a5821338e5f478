/** TLS, certificates and tokens: what is sent to whom, and what is refused. */

import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Server, ServerCredentials, credentials, status } from '@grpc/grpc-js';
import { FlagClient, type FlagClientOptions } from 'flagsvc-client';
import { FlagServiceService } from 'flagsvc-client/stubs';

const seen: unknown[] = [];
const server = new Server();
server.addService(FlagServiceService, {
  evaluateFlag: (call: any, answer: any) => {
    seen.push(call.metadata.get('authorization'));
    answer({ code: status.NOT_FOUND, details: 'no such flag' });
  },
  watchFlags: (call: any) => {
    seen.push(call.metadata.get('authorization'));
    call.end();
  },
} as any);
const port = await new Promise<number>((resolve, reject) =>
  server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, found) =>
    error ? reject(error) : resolve(found),
  ),
);
after(() => server.forceShutdown());
const folder = mkdtempSync(join(tmpdir(), 'flagsvc-'));
const quiet = { log: () => {} };

async function asked(options: FlagClientOptions): Promise<string> {
  const client = new FlagClient(`127.0.0.1:${port}`, { ...quiet, timeoutMs: 5_000, ...options });
  const { errorMessage } = await client.details('a', true);
  client.close();
  return errorMessage;
}

test('a token is sent, from a text, a function or a file', async () => {
  const file = join(folder, 'token');
  writeFileSync(file, 'from-file\n');
  await asked({ token: 'text' });
  await asked({ token: async () => 'function' });
  await asked({ tokenFile: file });
  await asked({});
  assert.deepEqual(seen.splice(0), [['Bearer text'], ['Bearer function'], ['Bearer from-file'], []]);
});

test('a watch sends it too, and waits for it', async () => {
  let calls = 0;
  const token = () => {
    calls += 1;
    if (calls === 1) throw new Error('not yet');
    return 'later';
  };
  const client = new FlagClient(`127.0.0.1:${port}`, { ...quiet, token });
  const ended = client.watch().next();
  while (!seen.length) await new Promise((resolve) => setTimeout(resolve, 10));
  client.close();
  await ended;
  assert.deepEqual(seen.splice(0)[0], ['Bearer later']);
});

test('without a token to send the default stands, and the text shows nothing', async () => {
  for (const token of ['', 'two words', 'naïve']) {
    assert.match(await asked({ token: () => token }), /^there is no token to send: TypeError$/);
  }
  const broken = await asked({ token: () => Promise.reject(new Error('secret')) });
  assert.equal(broken, 'there is no token to send: Error');
  assert.match(await asked({ tokenFile: join(folder, 'none') }), /^there is no token to send/);
  assert.deepEqual(seen, []);
});

test('a token goes to others encrypted only, unless the network encrypts', () => {
  for (const target of ['flags:8013', '10.0.0.1:1', 'dns:///flags:1', 'localhost.example:1', '127.0.0.1.example:1']) {
    assert.throws(() => new FlagClient(target, { token: 't' }), /would be sent to .* in plain text/, target);
    for (const options of [{ tls: true }, { plaintextToken: true }, { credentials: credentials.createSsl() }]) {
      new FlagClient(target, { token: 't', ...options }).close();
    }
  }
  for (const target of ['localhost:1', '[::1]:1', 'unix:/a', 'dns:///localhost:1', 'ipv4:127.0.0.2:1']) {
    new FlagClient(target, { token: 't' }).close();
  }
});

test('options that contradict each other are refused', () => {
  const both = { tls: true, credentials: credentials.createSsl() };
  assert.throws(() => new FlagClient('a:1', both), /both credentials and tls/);
  assert.throws(() => new FlagClient('a:1', { token: 'a', tokenFile: 'b' }), /both token and tokenFile/);
  assert.throws(() => new FlagClient('a:1', { tls: { key: 'k' } }), /needs both/);
  assert.throws(() => new FlagClient('a:1', { token: 'a\nb' }), /characters that no token has/);
});

test('TLS with a certificate of its own', async () => {
  const { FLAGSVC_TLS_TARGET: target, FLAGSVC_TLS_FOLDER: files } = process.env;
  assert.ok(target && files, 'FLAGSVC_TLS_TARGET names a server that requires a client certificate');
  const tls = { ca: join(files, 'ca.crt'), certificate: join(files, 'own.crt'), key: join(files, 'own.key') };
  const client = new FlagClient(target, { ...quiet, tls, timeoutMs: 5_000, raiseErrors: true });
  assert.equal((await client.details('a', false)).value, true);
  client.close();
  const stranger = new FlagClient(target, { ...quiet, tls: { ca: tls.ca }, timeoutMs: 5_000 });
  assert.equal((await stranger.details('a', false)).errorCode, 'PROVIDER_NOT_READY');
  stranger.close();
});
