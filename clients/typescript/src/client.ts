/** The client: evaluations that do not reject, and a watch that heals. */

import { status } from '@grpc/grpc-js';
import { Caller, type CallerOptions } from './caller.js';
import * as answers from './details.js';
import type { EvaluationDetails, FlagValue, Widened } from './details.js';
import { FlagServiceError, errorCodeOf, failureOf } from './errors.js';
import { Segments } from './segments.js';
import { Trouble } from './trouble.js';
import { type Context, type JsonObject, type JsonValue, toContext } from './values.js';
import { type Change, type Snapshot, type WatchOptions, watch } from './watching.js';

/** How a client behaves. */
export interface FlagClientOptions extends CallerOptions {
  /** Whether an evaluation whose call fails rejects with a FlagServiceError. Default: no, the default stands. */
  readonly raiseErrors?: boolean;
  /** Where trouble is said, at most once a minute for each kind. Default: console.warn. */
  readonly log?: (line: string) => void;
}

/** What one call may have of its own. */
export interface CallOptions {
  /** Revision that the answer must contain. A client's own toggles are asked for without it. */
  readonly minRevision?: bigint;
  readonly timeoutMs?: number;
}

/** What `isEnabled` may have of its own. */
export interface EnabledOptions extends CallOptions {
  /** What stands when the flag cannot be evaluated. An unknown flag is off. Default: false. */
  readonly default?: boolean;
}

/** What `batch` may have of its own. */
export interface BatchOptions extends CallOptions {
  /** Flags to evaluate. Default: every flag of the set. */
  readonly keys?: Iterable<string>;
}

/** Asks flagsvc; waits for nothing when it is made. Evaluations reject only when asked to, or for a wrong default. */
export class FlagClient extends Segments {
  protected readonly caller: Caller;
  readonly #raiseErrors: boolean;
  readonly #trouble: Trouble;

  /** `target` is "host:port" or "dns:///host:port"; a TypeError for one without a port, or a token in plain text. */
  constructor(target: string, options: FlagClientOptions = {}) {
    super();
    this.caller = new Caller(target, options);
    this.#raiseErrors = options.raiseErrors ?? false;
    this.#trouble = new Trouble(options.log ?? console.warn);
  }

  /** Tell whether a flag is on: its status is ENABLED and its value for this context is true. */
  async isEnabled(key: string, context: Context = {}, options: EnabledOptions = {}): Promise<boolean> {
    const standing = options.default ?? false;
    const { enabled, errorCode } = await this.#evaluate(key, standing, 'boolean', context, options);
    return errorCode && errorCode !== 'FLAG_NOT_FOUND' && errorCode !== 'TYPE_MISMATCH' ? standing : enabled;
  }

  /** Give a flag's value, or the default. */
  async boolean(key: string, standing: boolean, context: Context = {}, options: CallOptions = {}): Promise<boolean> {
    return (await this.#evaluate(key, standing, 'boolean', context, options)).value;
  }

  /** Give a flag's value, or the default. */
  async string(key: string, standing: string, context: Context = {}, options: CallOptions = {}): Promise<string> {
    return (await this.#evaluate(key, standing, 'string', context, options)).value;
  }

  /** Give a flag's value, or the default; a whole one past 2^53 is rounded. */
  async number(key: string, standing: number, context: Context = {}, options: CallOptions = {}): Promise<number> {
    return (await this.#evaluate(key, standing, 'number', context, options)).value;
  }

  /** Give a flag's whole value, exactly, or the default. */
  async integer(key: string, standing: bigint, context: Context = {}, options: CallOptions = {}): Promise<bigint> {
    return (await this.#evaluate(key, standing, 'bigint', context, options)).value;
  }

  /** Give a flag's value, or the default. */
  async object(
    key: string,
    standing: JsonObject,
    context: Context = {},
    options: CallOptions = {},
  ): Promise<JsonObject> {
    return (await this.#evaluate(key, standing, 'object', context, options)).value;
  }

  /** Give a flag's value with all that is known of it. The type asked for is the default's. */
  async details<T extends FlagValue>(
    key: string,
    standing: T,
    context: Context = {},
    options: CallOptions = {},
  ): Promise<EvaluationDetails<Widened<T>>> {
    return this.#evaluate(key, standing as Widened<T>, typeof standing, context, options);
  }

  /** Evaluate several flags for one context; `value` is undefined where the caller's default stands. */
  async batch(
    context: Context = {},
    options: BatchOptions = {},
  ): Promise<Map<string, EvaluationDetails<JsonValue | undefined>>> {
    const flagKeys = [...(options.keys ?? [])];
    if (options.keys !== undefined && flagKeys.length === 0) return new Map();
    try {
      const request = {
        flagKeys,
        flagSet: this.caller.flagSet,
        context: toContext(context),
        minRevision: this.caller.minimum(options.minRevision),
        asOf: undefined,
      };
      const { evaluations } = await this.caller.call(
        this.caller.flags,
        this.caller.flags.batchEvaluateFlags,
        request,
        options.timeoutMs,
      );
      return new Map(evaluations.map((found) => [found.flagKey, answers.fromAnyEvaluation(found)]));
    } catch (error) {
      const failure = this.#failed('a batch', error);
      return new Map(
        flagKeys.map((key) => [key, answers.failed(key, undefined, errorCodeOf(failure), failure.message)]),
      );
    }
  }

  /** Give the whole flag set, then every change; reconnects and resumes by itself until `close` or the signal. */
  watch(options: WatchOptions = {}): AsyncGenerator<Snapshot | Change, void, void> {
    const { caller } = this;
    const signals = [caller.closing.signal, ...(options.signal ? [options.signal] : [])];
    const open = async (resumeRevision: bigint) => {
      const request = { flagSet: caller.flagSet, resumeRevision, pagedSnapshots: false };
      return caller.flags.watchFlags(request, await caller.metadata());
    };
    return watch(open, AbortSignal.any(signals));
  }

  /** End all streams and connections; evaluations give their defaults from now on. */
  close(): void {
    this.caller.close();
  }

  async #evaluate<T>(
    key: string,
    standing: T,
    wanted: string,
    context: Context,
    options: CallOptions,
  ): Promise<EvaluationDetails<T>> {
    const type = answers.typeOf(standing);
    if (typeof standing !== wanted) {
      throw new TypeError(`the default is a ${typeof standing}; it must be a ${wanted}`);
    }
    try {
      const request = {
        flagKey: key,
        flagSet: this.caller.flagSet,
        context: toContext(context),
        expectedType: type,
        explain: false,
        minRevision: this.caller.minimum(options.minRevision),
        asOf: undefined,
      };
      const { evaluation } = await this.caller.call(
        this.caller.flags,
        this.caller.flags.evaluateFlag,
        request,
        options.timeoutMs,
      );
      if (!evaluation) throw new FlagServiceError(status.INTERNAL, 'the server answered without an evaluation');
      return answers.fromEvaluation(evaluation, standing);
    } catch (error) {
      const failure = this.#failed(`flag ${JSON.stringify(key)}`, error);
      return answers.failed(key, standing, errorCodeOf(failure), failure.message);
    }
  }

  /** Tell of a failed evaluation once, and rethrow it where that was asked for. */
  #failed(what: string, error: unknown): FlagServiceError {
    const failure = failureOf(error);
    if (this.#raiseErrors) throw failure;
    const name = status[failure.code] ?? 'UNKNOWN';
    this.#trouble.say(
      `${name} ${failure.reason}`,
      `${what} could not be evaluated, the default stands: ${name}: ${failure.message}`,
    );
    return failure;
  }
}
