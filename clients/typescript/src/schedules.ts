/** Changes of flags that are planned for a time. */

import { type FlagStatus, statusOf } from './details.js';
import { FlagServiceError } from './errors.js';
import { type FlagFields, toPatch } from './flags.js';
import * as pb from './gen/flagsvc/v1/schedule_service.js';
import { allOf } from './pages.js';
import { Revisions } from './revisions.js';
import { type WriteOptions, authorOf, duration, waitMsOf, writeFields } from './writes.js';

const STATES = [
  'UNKNOWN',
  'PENDING',
  'HELD',
  'EXECUTED',
  'SKIPPED',
  'FAILED',
  'MISSED',
  'CANCELLED',
] as const;
const ON_CONFLICT = ['', 'HOLD', 'APPLY', 'SKIP'] as const;
/** What became of a schedule. UNKNOWN: a state of a newer release. */
export type ScheduleState = (typeof STATES)[number];
/** What a due schedule does if a field that it changes was changed after it was planned. */
export type OnConflict = Exclude<(typeof ON_CONFLICT)[number], ''>;

/** One planned change. */
export interface Schedule {
  readonly id: string;
  readonly flagKey: string;
  readonly executeAt: Date;
  readonly zone: string;
  /** Its time in its zone, with the offset. */
  readonly localTime: string;
  readonly state: ScheduleState;
  /** Names of the fields that it sets, as in the contract: "status". */
  readonly changes: readonly string[];
  /** The status that it sets; empty if it sets none. */
  readonly status: FlagStatus;
  /** Why it ended as it did. */
  readonly detail: string;
  readonly conflicts: readonly string[];
  readonly createdBy: string;
  readonly onBehalfOf: string;
  readonly reason: string;
  /** Revision of the change; 0n if it was not made. */
  readonly executedRevision: bigint;
  readonly etag: string;
}

/** What a plan may have of its own. */
export interface PlanOptions {
  /** IANA zone. Default: UTC. */
  readonly zone?: string;
  /** Default: the server's, HOLD. */
  readonly onConflict?: OnConflict;
  /** How late the change may still be made. Default: the server's, an hour. */
  readonly maxLatenessMs?: number;
  readonly reason?: string;
  readonly onBehalfOf?: string;
  /** A name for this plan, such as a UUID. Sent again, it is planned once. */
  readonly requestId?: string;
  /** Whether only to check it: the result is what would be stored. Default: no. */
  readonly validateOnly?: boolean;
}

type Checked = Pick<WriteOptions, 'etag' | 'requestId' | 'validateOnly'>;

/** The part of a client that is about planned changes. Every failed call rejects with a FlagServiceError. */
export abstract class Schedules extends Revisions {
  /** Plan to set fields of a flag. `at`: a moment, or a local time of the zone such as "2030-12-01T09:00". */
  async schedule(key: string, at: Date | string, fields: FlagFields, options: PlanOptions = {}): Promise<Schedule> {
    const { caller } = this;
    const { patch, updateMask } = toPatch(fields);
    const request = pb.CreateScheduleRequest.fromPartial({
      flagSet: caller.flagSet,
      schedule: {
        flagKey: key,
        ...timeOf(at),
        timeZone: options.zone ?? '',
        patch: { ...patch, key },
        updateMask,
        onConflict: ON_CONFLICT.indexOf(options.onConflict ?? ('' as never)),
        maxLateness: options.maxLatenessMs === undefined ? undefined : duration(options.maxLatenessMs),
      },
      requestId: options.requestId ?? '',
      validateOnly: options.validateOnly ?? false,
      ...authorOf(caller, options),
    });
    return scheduleOf((await caller.stored(caller.schedules, caller.schedules.createSchedule, request)).schedule);
  }

  /** Read one schedule. */
  async getSchedule(id: string): Promise<Schedule> {
    const { schedules, flagSet } = this.caller;
    return scheduleOf((await this.caller.stored(schedules, schedules.getSchedule, { flagSet, id })).schedule);
  }

  /** Read schedules by time, of one flag or of all: those that have not ended, unless `states` says which. */
  async schedules(key = '', states: readonly Exclude<ScheduleState, 'UNKNOWN'>[] = []): Promise<Schedule[]> {
    const { schedules, flagSet } = this.caller;
    const filter = { flagSet, flagKey: key, states: states.map((state) => STATES.indexOf(state)) };
    return allOf(
      (wanted) => this.caller.stored(schedules, schedules.listSchedules, { ...filter, ...wanted }),
      (page) => page.schedules.map(scheduleOf),
    );
  }

  /** Plan a schedule for another time; it then compares with the flag as it is now. `zone`: default: its own. */
  async moveSchedule(
    id: string,
    at: Date | string,
    options: Checked & { readonly zone?: string } = {},
  ): Promise<Schedule> {
    const { caller } = this;
    const { zone = '', etag = '' } = options;
    const request = pb.UpdateScheduleRequest.fromPartial({
      flagSet: caller.flagSet,
      schedule: { id, etag, ...timeOf(at), timeZone: zone },
      updateMask: ['execute_time', ...(zone ? ['time_zone'] : [])],
      requestId: options.requestId ?? '',
      validateOnly: options.validateOnly ?? false,
      ...authorOf(caller, {}),
    });
    return scheduleOf((await caller.stored(caller.schedules, caller.schedules.updateSchedule, request)).schedule);
  }

  /** End a schedule before its time. Idempotent. */
  async cancelSchedule(
    id: string,
    options: Checked & { readonly reason?: string } = {},
  ): Promise<Schedule> {
    const { caller } = this;
    const request = {
      flagSet: caller.flagSet,
      id,
      etag: options.etag ?? '',
      requestId: options.requestId ?? '',
      validateOnly: options.validateOnly ?? false,
      ...authorOf(caller, options),
    };
    return scheduleOf((await caller.stored(caller.schedules, caller.schedules.cancelSchedule, request)).schedule);
  }

  /** Make a planned change now, whatever has changed since it was planned. Later reads show it. */
  async executeSchedule(
    id: string,
    options: WriteOptions = {},
  ): Promise<Schedule> {
    const { caller } = this;
    const fields = writeFields(caller, options);
    const request = { flagSet: caller.flagSet, id, etag: options.etag ?? '', ...fields };
    const { schedules } = caller;
    const done = await caller.stored(schedules, schedules.executeSchedule, request, waitMsOf(options));
    if (done.spread) caller.noteWritten(done.spread.revision);
    return scheduleOf(done.schedule);
  }
}

const timeOf = (at: Date | string) => (typeof at === 'string' ? { localTime: at } : { executeTime: at });

function scheduleOf(found: pb.Schedule | undefined): Schedule {
  if (!found) throw new FlagServiceError(13, 'the server answered without a schedule');
  return {
    id: found.id,
    flagKey: found.flagKey,
    executeAt: found.executeTime ?? new Date(0),
    zone: found.timeZone,
    localTime: found.localTime,
    state: STATES[found.state] ?? 'UNKNOWN',
    changes: found.updateMask ?? [],
    status: statusOf(found.patch?.status ?? 0),
    detail: found.detail,
    conflicts: found.conflicts.map(({ description }) => description),
    createdBy: found.createdBy,
    onBehalfOf: found.onBehalfOf,
    reason: found.reason,
    executedRevision: found.executedRevision,
    etag: found.etag,
  };
}
