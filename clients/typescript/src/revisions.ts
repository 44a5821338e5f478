/** Earlier revisions of flags: what they were, what they answered, and how to return to them. */

import { Definitions, readFlag } from './definitions.js';
import * as answers from './details.js';
import type { EvaluationDetails, FlagValue, Widened } from './details.js';
import { FlagServiceError } from './errors.js';
import type { Flag } from './flags.js';
import * as pb from './gen/flagsvc/v1/flag_service.js';
import { allOf } from './pages.js';
import { type Context, type JsonValue, toContext } from './values.js';
import { type WriteOptions, type Written, waitMsOf, writeFields, writtenOf } from './writes.js';

/** A revision of the flag set, or a time; one to come has what is planned until then. */
export type At = bigint | Date;

/** One revision of a flag, without its definition. */
export interface FlagRevision {
  readonly flagKey: string;
  readonly revision: bigint;
  readonly time: Date;
  readonly action: string;
  readonly actor: string;
  readonly onBehalfOf: string;
  readonly reason: string;
  /** Revision whose definition the change restored; 0n for other changes. */
  readonly restoredRevision: bigint;
  /** Whether the flag does not exist as of this revision. */
  readonly deleted: boolean;
}

/** The changes of a rollback of a flag set. */
export interface SetRollback {
  readonly flags: readonly { flagKey: string; action: string; revision: bigint; fields: string[] }[];
  readonly segments: readonly { name: string; action: string }[];
  /** How far the last change had spread; unset if nothing was written. */
  readonly written?: Written;
}

/** The part of a client that is about other moments. Every failed call rejects with a FlagServiceError. */
export abstract class Revisions extends Definitions {
  /** Read the definition that a flag had. */
  async flagAt(key: string, at: At): Promise<Flag> {
    return readFlag(this.caller, key, { asOf: asOf(at) });
  }

  /** Evaluate a flag as of a moment; the default and an error code if it did not exist then. */
  async detailsAt<T extends FlagValue>(
    key: string,
    at: At,
    standing: T,
    context: Context = {},
  ): Promise<EvaluationDetails<Widened<T>>> {
    const { caller } = this;
    const request = pb.EvaluateFlagRequest.fromPartial({ flagKey: key, flagSet: caller.flagSet, asOf: asOf(at) });
    request.context = toContext(context);
    request.expectedType = answers.typeOf(standing);
    const { evaluation } = await caller.stored(caller.flags, caller.flags.evaluateFlag, request);
    if (!evaluation) throw new FlagServiceError(13, 'the server answered without an evaluation');
    return answers.fromEvaluation(evaluation, standing as Widened<T>);
  }

  /** Evaluate several flags as of one moment; without keys all flags that the set had then. */
  async batchAt(
    at: At,
    context: Context = {},
    options: { readonly keys?: Iterable<string> } = {},
  ): Promise<Map<string, EvaluationDetails<JsonValue | undefined>>> {
    const { caller } = this;
    const flagKeys = [...(options.keys ?? [])];
    if (options.keys !== undefined && flagKeys.length === 0) return new Map();
    const request = pb.BatchEvaluateFlagsRequest.fromPartial({ flagKeys, flagSet: caller.flagSet, asOf: asOf(at) });
    request.context = toContext(context);
    const { evaluations } = await caller.stored(caller.flags, caller.flags.batchEvaluateFlags, request);
    return new Map(evaluations.map((found) => [found.flagKey, answers.fromAnyEvaluation(found)]));
  }

  /** List a flag's newest revisions, newest first. */
  async revisions(key: string, limit = 50): Promise<FlagRevision[]> {
    const { flags, flagSet } = this.caller;
    return allOf(
      (wanted) => this.caller.stored(flags, flags.listFlagRevisions, { flagKey: key, flagSet, ...wanted }),
      (page) => page.revisions.map(({ time, ...rest }) => ({ ...rest, time: time ?? new Date(0) })),
      limit,
    );
  }

  /** Roll a flag back to the definition of a revision, as a new revision. */
  async rollback(key: string, revision: bigint, options: WriteOptions = {}): Promise<Written> {
    const { caller } = this;
    const request = pb.RollbackFlagRequest.fromPartial({
      flagKey: key,
      flagSet: caller.flagSet,
      revision,
      etag: options.etag ?? '',
      ...writeFields(caller, options),
    });
    const { flags } = caller;
    return writtenOf(caller, await caller.stored(flags, flags.rollbackFlag, request, waitMsOf(options)));
  }

  /** Roll every flag of the set back to the definition of a revision, in one transaction. */
  async rollbackSet(
    revision: bigint,
    options: Omit<WriteOptions, 'etag'> = {},
  ): Promise<SetRollback> {
    const { caller } = this;
    const fields = writeFields(caller, options);
    const request = pb.RollbackFlagSetRequest.fromPartial({ flagSet: caller.flagSet, revision, ...fields });
    const { flags } = caller;
    const response = await caller.stored(flags, flags.rollbackFlagSet, request, waitMsOf(options));
    const written = response.spread && writtenOf(caller, { spread: response.spread });
    return { flags: response.flags, segments: response.segments, ...(written && { written }) };
  }
}

function asOf(at: At): pb.AsOf {
  if (typeof at === 'bigint') {
    if (at < 1n) throw new TypeError(`the revision is ${at}; it must be at least 1`);
    return { at: { $case: 'revision', value: at } };
  }
  if (Number.isNaN(at.getTime())) throw new TypeError('the time is an invalid Date');
  return { at: { $case: 'time', value: at } };
}
