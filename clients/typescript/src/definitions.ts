/** Definitions of flags: reads, writes, and the history of changes. */

import type { Caller } from './caller.js';
import { FlagServiceError } from './errors.js';
import { type Flag, type FlagFields, fromFlag, toPatch } from './flags.js';
import * as pb from './gen/flagsvc/v1/flag_service.js';
import { allOf } from './pages.js';
import { type JsonValue, fromValue } from './values.js';
import { type WriteOptions, type Written, waitMsOf, writeFields, writtenOf } from './writes.js';

/** One change of one flag. */
export interface HistoryEntry {
  readonly flagKey: string;
  /** ENABLED, DISABLED, UPDATED, CREATED or DELETED. Other programs may write other values. */
  readonly action: string;
  /** The changed fields before the change, by their stored names; unset for a creation. */
  readonly previous?: JsonValue;
  /** The changed fields after the change; unset for a deletion. */
  readonly new?: JsonValue;
  readonly actor: string;
  readonly onBehalfOf: string;
  readonly reason: string;
  readonly createdAt: Date;
  /** Revision of the change; 0n if another program made it. */
  readonly revision: bigint;
  /** Revision whose definition the change restored; 0n for other changes. */
  readonly restoredRevision: bigint;
  /** What made the change in the actor's name, such as "schedule/ID"; empty for the actor. */
  readonly via: string;
}

/** The part of a client that is about definitions. Every failed call rejects with a FlagServiceError. */
export abstract class Definitions {
  protected abstract readonly caller: Caller;

  /** Read a definition as it is now. */
  async flag(key: string): Promise<Flag> {
    return readFlag(this.caller, key, { minRevision: this.caller.minimum() });
  }

  /** Read all definitions of the set, by sort order, then key. */
  async flags(): Promise<Flag[]> {
    const { flags, flagSet } = this.caller;
    return allOf(
      (wanted) => this.caller.stored(flags, flags.listFlags, { flagSet, ...wanted }),
      (page) => page.flags.map(fromFlag),
    );
  }

  /** Read a flag's newest changes, at most 1,000, newest first; none for an unknown flag. */
  async history(key: string, limit = 50): Promise<HistoryEntry[]> {
    const { flags, flagSet } = this.caller;
    const request = { flagKey: key, flagSet, pageSize: limit };
    return (await this.caller.stored(flags, flags.listFlagHistory, request)).entries.map(entryOf);
  }

  /** Create a flag; it is DISABLED unless `fields` has another status. */
  async create(key: string, fields: FlagFields = {}, options: Omit<WriteOptions, 'etag'> = {}): Promise<Written> {
    const { caller } = this;
    const request = pb.CreateFlagRequest.fromPartial({
      flag: { ...toPatch(fields).patch, key, flagSet: caller.flagSet },
      ...writeFields(caller, options),
    });
    const { flags } = caller;
    return writtenOf(caller, await caller.stored(flags, flags.createFlag, request, waitMsOf(options)));
  }

  /** Set fields of a flag. */
  async update(key: string, fields: FlagFields, options: WriteOptions = {}): Promise<Written> {
    const { caller } = this;
    const { patch, updateMask } = toPatch(fields);
    const request = pb.UpdateFlagRequest.fromPartial({
      flag: { ...patch, key, flagSet: caller.flagSet, etag: options.etag ?? '' },
      updateMask,
      ...writeFields(caller, options),
    });
    const { flags } = caller;
    return writtenOf(caller, await caller.stored(flags, flags.updateFlag, request, waitMsOf(options)));
  }

  /** Switch a flag to the wanted state, which this client's later evaluations show on every replica. */
  async toggle(key: string, enabled: boolean, options: WriteOptions = {}): Promise<Written> {
    const { caller } = this;
    const request = pb.ToggleFlagRequest.fromPartial({
      flagKey: key,
      flagSet: caller.flagSet,
      enabled,
      etag: options.etag ?? '',
      ...writeFields(caller, options),
    });
    const { flags } = caller;
    return writtenOf(caller, await caller.stored(flags, flags.toggleFlag, request, waitMsOf(options)));
  }

  /** Delete a flag; its history stays. */
  async delete(key: string, options: WriteOptions = {}): Promise<Written> {
    const { caller } = this;
    const request = pb.DeleteFlagRequest.fromPartial({
      flagKey: key,
      flagSet: caller.flagSet,
      etag: options.etag ?? '',
      ...writeFields(caller, options),
    });
    const { flags } = caller;
    return writtenOf(caller, await caller.stored(flags, flags.deleteFlag, request, waitMsOf(options)));
  }
}

/** Read a definition as of a moment, or as of now. */
export async function readFlag(
  caller: Caller,
  key: string,
  moment: { minRevision?: bigint; asOf?: pb.AsOf },
): Promise<Flag> {
  const request = pb.GetFlagRequest.fromPartial({ flagKey: key, flagSet: caller.flagSet, ...moment });
  const { flag } = await caller.stored(caller.flags, caller.flags.getFlag, request);
  if (!flag) throw new FlagServiceError(13, 'the server answered without a flag');
  return fromFlag(flag);
}

function entryOf({ previousValue, newValue, createdAt, ...rest }: pb.HistoryEntry): HistoryEntry {
  const before = fromValue(previousValue);
  const after = fromValue(newValue);
  return {
    ...rest,
    ...(before !== undefined && { previous: before }),
    ...(after !== undefined && { new: after }),
    createdAt: createdAt ?? new Date(0),
  };
}
