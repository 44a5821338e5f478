/** Rollouts: begun, paused, resumed and rolled back, each from the share that stands. */

import { FlagServiceError } from './errors.js';
import { UpdateFlagRequest } from './gen/flagsvc/v1/flag_service.js';
import * as pb from './gen/flagsvc/v1/rollout_service.js';
import { Schedules } from './schedules.js';
import { type WriteOptions, type Written, duration, waitMsOf, writeFields, writtenOf } from './writes.js';

const STATES = ['UNKNOWN', 'PLANNED', 'RUNNING', 'PAUSED', 'FINISHED'] as const;
/** How far a rollout is. UNKNOWN: a state of a newer release. */
export type RolloutState = (typeof STATES)[number];

/** At a time the share, in percent. */
export interface RolloutPoint {
  readonly time: Date;
  readonly share: number;
}

/** A rollout at a moment, by the clock of the replica that answered. Shares are in percent. */
export interface RolloutStatus {
  readonly state: RolloutState;
  readonly from: string;
  readonly to: string;
  readonly share: number;
  readonly time: Date;
  /** When the share changes next, or evenly becomes `nextShare`; both unset if it does not. */
  readonly nextTime?: Date;
  readonly nextShare?: number;
  readonly points: readonly RolloutPoint[];
  readonly linear: boolean;
  readonly startShare: number;
  readonly pausedAt?: Date;
  readonly bucketBy: string;
  /** Whether the flag is switched on; while it is not, nobody gets a variant. */
  readonly enabled: boolean;
}

/** A change of a rollout, and how far it is then. */
export interface RolloutWritten extends Written {
  readonly rollout: RolloutStatus;
}

/** How callers move: evenly in so many milliseconds, or in steps, each at a time or so many milliseconds from now. */
export type Way = { readonly overMs: number } | { readonly steps: readonly (readonly [Date | number, number])[] };

/** The part of a client that is about rollouts. Every failed call rejects with a FlagServiceError. */
export abstract class Rollouts extends Schedules {
  /** Read how far a flag's rollout is. */
  async rollout(key: string): Promise<RolloutStatus> {
    const { caller } = this;
    const request = { flagKey: key, flagSet: caller.flagSet };
    return statusOf((await caller.stored(caller.rollouts, caller.rollouts.getRollout, request)).status);
  }

  /** Move callers from one variant to another from now on, or change the way of a rollout that is under way. */
  async startRollout(
    key: string,
    from: string,
    to: string,
    way: Way,
    options: WriteOptions & { readonly bucketBy?: string } = {},
  ): Promise<Written> {
    const { caller } = this;
    const rollout = {
      fromVariant: from,
      toVariant: to,
      points: pointsOf(way),
      linear: 'overMs' in way,
      bucketBy: options.bucketBy ?? '',
    };
    const request = UpdateFlagRequest.fromPartial({
      flag: { key, flagSet: caller.flagSet, etag: options.etag ?? '', rollout },
      updateMask: ['rollout'],
      ...writeFields(caller, options),
    });
    return writtenOf(
      caller,
      await caller.stored(caller.flags, caller.flags.updateFlag, request, waitMsOf(options)),
    );
  }

  /** Keep the share of now until the rollout is resumed. Idempotent. */
  async pauseRollout(key: string, options: WriteOptions = {}): Promise<RolloutWritten> {
    const { rollouts } = this.caller;
    const request = pb.PauseRolloutRequest.fromPartial(this.#fields(key, options));
    return this.#written(await this.caller.stored(rollouts, rollouts.pauseRollout, request, waitMsOf(options)));
  }

  /** Let a paused rollout go on, later by the length of the pause. Idempotent. */
  async resumeRollout(key: string, options: WriteOptions = {}): Promise<RolloutWritten> {
    const { rollouts } = this.caller;
    const request = pb.ResumeRolloutRequest.fromPartial(this.#fields(key, options));
    return this.#written(await this.caller.stored(rollouts, rollouts.resumeRollout, request, waitMsOf(options)));
  }

  /** Move callers back, who moved last first: as they came, or evenly within `overMs`; 0: at once. */
  async rollbackRollout(
    key: string,
    options: WriteOptions & { readonly overMs?: number } = {},
  ): Promise<RolloutWritten> {
    const { rollouts } = this.caller;
    const over = options.overMs === undefined ? undefined : duration(options.overMs);
    const request = pb.RollbackRolloutRequest.fromPartial({ ...this.#fields(key, options), over });
    return this.#written(await this.caller.stored(rollouts, rollouts.rollbackRollout, request, waitMsOf(options)));
  }

  #fields(key: string, options: WriteOptions) {
    const { caller } = this;
    return { flagKey: key, flagSet: caller.flagSet, etag: options.etag ?? '', ...writeFields(caller, options) };
  }

  #written(response: pb.PauseRolloutResponse): RolloutWritten {
    return { ...writtenOf(this.caller, response), rollout: statusOf(response.status) };
  }
}

function pointsOf(way: Way): { time: Date; share: number }[] {
  const now = Math.floor(Date.now() / 1_000) * 1_000;
  const at = (moment: Date | number) =>
    moment instanceof Date ? moment : new Date(now + Math.floor(moment / 1_000) * 1_000);
  if ('overMs' in way) {
    return [
      { time: at(0), share: 0 },
      { time: at(Math.max(1_000, way.overMs)), share: 100 },
    ];
  }
  return way.steps.map(([moment, share]) => ({ time: at(moment), share }));
}

function statusOf(status: pb.RolloutStatus | undefined): RolloutStatus {
  if (!status?.rollout) throw new FlagServiceError(13, 'the server answered without a rollout');
  const { rollout, nextTime } = status;
  return {
    state: STATES[status.state] ?? 'UNKNOWN',
    from: rollout.fromVariant,
    to: rollout.toVariant,
    share: status.share,
    time: status.time ?? new Date(0),
    ...(nextTime && { nextTime, nextShare: status.nextShare }),
    points: rollout.points.map(({ time, share }) => ({ time: time ?? new Date(0), share })),
    linear: rollout.linear,
    startShare: rollout.startShare,
    ...(rollout.pausedAt && { pausedAt: rollout.pausedAt }),
    bucketBy: rollout.bucketBy,
    enabled: status.enabled,
  };
}
