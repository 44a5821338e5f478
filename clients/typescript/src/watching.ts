/** A flag set's changes as one endless stream that heals. */

import { setTimeout as sleep } from 'node:timers/promises';
import { type ClientReadableStream, status } from '@grpc/grpc-js';
import { failureOf } from './errors.js';
import { type Flag, fromFlag } from './flags.js';
import type { WatchFlagsResponse } from './gen/flagsvc/v1/flag_service.js';

/** The whole flag set; replaces everything received before. */
export interface Snapshot {
  readonly kind: 'snapshot';
  readonly flags: readonly Flag[];
}

/** One flag changed; without `flag` it was deleted. */
export interface Change {
  readonly kind: 'change';
  readonly key: string;
  readonly flag?: Flag;
  readonly revision: bigint;
}

/** How a watch ends before the client is closed. */
export interface WatchOptions {
  readonly signal?: AbortSignal;
}

/** The server sends a heartbeat every 10 s. */
const SILENCE_MS = 30_000;
const BACKOFF_MS = { first: 100, most: 5_000 };
/** A replica that lags behind catches up within its staleness bound; after this a set that went back was restored. */
const LAGGING_MS = 30_000;
/** What trying again does not heal. */
const FINAL = new Set([
  status.INVALID_ARGUMENT,
  status.UNIMPLEMENTED,
  status.UNAUTHENTICATED,
  status.PERMISSION_DENIED,
]);

/** Give snapshots and changes until the signal; `open` starts a stream that resumes after a revision. */
export async function* watch(
  open: (resumeRevision: bigint) => Promise<ClientReadableStream<WatchFlagsResponse>>,
  signal: AbortSignal,
): AsyncGenerator<Snapshot | Change, void, void> {
  let resume = 0n;
  let backoff = BACKOFF_MS.first;
  let laggingSince: number | undefined;
  while (!signal.aborted) {
    for await (const message of messagesOf(() => open(resume), signal)) {
      backoff = BACKOFF_MS.first;
      const { event, resumeRevision } = message;
      if (event?.$case === 'snapshot' && resumeRevision < resume) {
        laggingSince ??= performance.now();
        if (performance.now() - laggingSince < LAGGING_MS) break;
        resume = 0n;
      }
      laggingSince = undefined;
      if (resumeRevision > resume) resume = resumeRevision;
      if (event?.$case === 'snapshot') yield { kind: 'snapshot', flags: event.value.flags.map(fromFlag) };
      if (event?.$case === 'change') {
        const { flagKey: key, flag, revision } = event.value;
        yield { kind: 'change', key, revision, ...(flag && { flag: fromFlag(flag) }) };
      }
    }
    await sleep(Math.random() * backoff, undefined, { signal }).catch(() => {});
    backoff = Math.min(backoff * 2, BACKOFF_MS.most);
  }
}

/** Give a stream's messages; it ends when it breaks, when it is silent for too long and at the signal. */
async function* messagesOf(
  open: () => Promise<ClientReadableStream<WatchFlagsResponse>>,
  signal: AbortSignal,
): AsyncGenerator<WatchFlagsResponse, void, void> {
  const call = await open().catch((error: unknown) => {
    if (FINAL.has(failureOf(error).code)) throw failureOf(error);
  });
  if (!call) return; // there was no token to send
  const cancel = () => call.cancel();
  const silence = setTimeout(cancel, SILENCE_MS);
  // An error that comes after the last message was asked for must not end the process.
  call.on('error', () => {});
  signal.addEventListener('abort', cancel);
  if (signal.aborted) cancel();
  try {
    for await (const message of call) {
      silence.refresh();
      yield message as WatchFlagsResponse;
      if (signal.aborted) return;
    }
  } catch (error) {
    const failure = failureOf(error);
    if (FINAL.has(failure.code) && !signal.aborted) throw failure;
  } finally {
    clearTimeout(silence);
    signal.removeEventListener('abort', cancel);
    call.cancel();
  }
}
