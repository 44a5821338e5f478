/** What every write has: its options in a request, and how far it had spread. */

import type { Caller } from './caller.js';
import * as answers from './details.js';
import type { WriteLevel } from './details.js';
import { type Flag, fromFlag } from './flags.js';
import type { WriteSpread } from './gen/flagsvc/v1/flag_service.js';
import type * as wire from './gen/flagsvc/v1/types.js';

/** What a write may have of its own. */
export interface WriteOptions {
  /** Etag that the flag must still have. */
  readonly etag?: string;
  /** Why, for the history. */
  readonly reason?: string;
  /** For whom it is made. Default: the client's `actor`. */
  readonly onBehalfOf?: string;
  /** How far the change must have spread. Default: the server's, CACHED. */
  readonly waitFor?: Exclude<WriteLevel, ''>;
  /** How long to wait for that. Default: 5,000. */
  readonly waitTimeoutMs?: number;
  /** A name for this write, such as a UUID. Sent again within 24 hours, it gets the first one's answer. */
  readonly requestId?: string;
  /** Whether only to check the write: the result is what would be stored, with the revision of now. Default: no. */
  readonly validateOnly?: boolean;
}

/** How far a write had spread when it was answered. */
export interface Written {
  /** The flag as stored, or as it would be; unset after a deletion. */
  readonly flag?: Flag;
  readonly revision: bigint;
  /** Empty if the write was only checked. */
  readonly reached: WriteLevel;
  readonly appliedBy: readonly string[];
  readonly lagging: readonly string[];
  /** Planned changes of a field that was changed now, a line each. */
  readonly scheduleNotes?: readonly string[];
  /** What is valid in the flag's rule and most likely not meant, a line each. */
  readonly notes?: readonly string[];
}

/** A duration in milliseconds. */
export const duration = (ms: number) => ({
  seconds: BigInt(Math.floor(ms / 1_000)),
  nanos: Math.floor((ms % 1_000) * 1e6),
});

/** Who writes, and why. */
export const authorOf = (caller: Caller, options: { reason?: string; onBehalfOf?: string }) => ({
  actor: options.onBehalfOf ?? caller.actor,
  reason: options.reason ?? '',
});

/** How long the server waits for a change to spread. */
export const waitMsOf = (options: WriteOptions): number => options.waitTimeoutMs ?? 5_000;

/** The fields that requests of writes have in common. */
export const writeFields = (caller: Caller, options: WriteOptions) => ({
  ...authorOf(caller, options),
  waitFor: answers.levelNumber(options.waitFor ?? ''),
  waitTimeout: duration(waitMsOf(options)),
  requestId: options.requestId ?? '',
  validateOnly: options.validateOnly ?? false,
});

/** Unpack the response to a write. If it was made, the client's later reads insist on it. */
export function writtenOf(
  caller: Caller,
  response: {
    flag?: wire.Flag | undefined;
    spread?: WriteSpread | undefined;
    scheduleNotes?: string[];
    notes?: string[];
  },
): Written {
  const { flag, spread, scheduleNotes, notes } = response;
  const revision = spread?.revision ?? flag?.revision ?? 0n;
  if (spread) caller.noteWritten(revision);
  return {
    ...(flag && { flag: fromFlag(flag) }),
    revision,
    reached: answers.levelOf(spread?.reached ?? 0),
    appliedBy: spread?.appliedBy ?? [],
    lagging: spread?.lagging ?? [],
    ...(scheduleNotes?.length && { scheduleNotes }),
    ...(notes?.length && { notes }),
  };
}
