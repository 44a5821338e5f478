/** The client: evaluations that do not reject, toggles, and a watch that heals. */

import { type ChannelOptions, type Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { type Access, type AccessOptions, accessTo } from './access.js';
import { channelOptions, targetOf } from './channel.js';
import * as answers from './details.js';
import type { EvaluationDetails, FlagValue, Widened, WriteLevel } from './details.js';
import { FlagServiceError, errorCodeOf, failureOf } from './errors.js';
import { type Flag, fromFlag } from './flags.js';
import { FlagServiceClient, ToggleFlagRequest } from './gen/flagsvc/v1/flag_service.js';
import { Trouble } from './trouble.js';
import { Turns } from './turns.js';
import { type Context, type JsonObject, type JsonValue, toContext } from './values.js';
import { type Change, type Snapshot, type WatchOptions, watch } from './watching.js';

/** How a client behaves. */
export interface FlagClientOptions extends AccessOptions {
  /** Default: "default". */
  readonly flagSet?: string;
  /** Deadline of every call, in milliseconds. Default: 500. */
  readonly timeoutMs?: number;
  /** Whether an evaluation whose call fails rejects with a FlagServiceError. Default: no, the default stands. */
  readonly raiseErrors?: boolean;
  /** Who makes changes, for the history. */
  readonly actor?: string;
  /** Further options of grpc-js. */
  readonly channelOptions?: ChannelOptions;
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

/** What a toggle may have of its own. */
export interface ToggleOptions {
  /** Etag that the flag must still have. */
  readonly etag?: string;
  /** Why, for the history. */
  readonly reason?: string;
  /** How far the change must have spread. Default: the server's, CACHED. */
  readonly waitFor?: Exclude<WriteLevel, ''>;
  /** How long to wait for that. Default: 5,000. */
  readonly waitTimeoutMs?: number;
}

/** How far a write had spread when it was answered. */
export interface Written {
  readonly flag?: Flag;
  readonly revision: bigint;
  readonly reached: WriteLevel;
  readonly appliedBy: readonly string[];
  readonly lagging: readonly string[];
}

type Answer<T> = (error: ServiceError | null, answer: T) => void;
const WAIT_MS = 5_000;

/** Asks flagsvc; waits for nothing when it is made. Evaluations reject only when asked to, or for a wrong default. */
export class FlagClient {
  readonly #access: Access;
  readonly #stub: FlagServiceClient;
  readonly #options: FlagClientOptions;
  readonly #flagSet: string;
  readonly #timeoutMs: number;
  readonly #trouble: Trouble;
  readonly #turns = new Turns();
  readonly #closing = new AbortController();
  /** Revision of this client's newest write. */
  #written = 0n;

  /** `target` is "host:port" or "dns:///host:port"; a TypeError for one without a port, or a token in plain text. */
  constructor(target: string, options: FlagClientOptions = {}) {
    this.#options = options;
    this.#flagSet = options.flagSet ?? 'default';
    this.#timeoutMs = options.timeoutMs ?? 500;
    this.#trouble = new Trouble(options.log ?? console.warn);
    this.#access = accessTo(targetOf(target), options);
    const channel = channelOptions({ ...this.#access.options, ...options.channelOptions });
    this.#stub = new FlagServiceClient(target, this.#access.credentials, channel);
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
        flagSet: this.#flagSet,
        context: toContext(context),
        minRevision: this.#minimum(options),
        asOf: undefined,
      };
      const { evaluations } = await this.#call(this.#stub.batchEvaluateFlags, request, options.timeoutMs);
      return new Map(evaluations.map((found) => [found.flagKey, answers.fromAnyEvaluation(found)]));
    } catch (error) {
      const failure = this.#failed('a batch', error);
      return new Map(
        flagKeys.map((key) => [key, answers.failed(key, undefined, errorCodeOf(failure), failure.message)]),
      );
    }
  }

  /** Switch a flag to the wanted state, which this client's later evaluations show on every replica, or reject. */
  async toggle(key: string, enabled: boolean, options: ToggleOptions = {}): Promise<Written> {
    const waitMs = options.waitTimeoutMs ?? WAIT_MS;
    const request = ToggleFlagRequest.fromPartial({
      flagKey: key,
      flagSet: this.#flagSet,
      enabled,
      actor: this.#options.actor ?? '',
      etag: options.etag ?? '',
      reason: options.reason ?? '',
      waitFor: answers.levelNumber(options.waitFor ?? ''),
      waitTimeout: { seconds: BigInt(Math.floor(waitMs / 1_000)), nanos: Math.floor((waitMs % 1_000) * 1e6) },
    });
    try {
      const { flag, spread } = await this.#call(this.#stub.toggleFlag, request, this.#timeoutMs + waitMs);
      const revision = spread?.revision ?? flag?.revision ?? 0n;
      if (revision > this.#written) this.#written = revision;
      return {
        ...(flag && { flag: fromFlag(flag) }),
        revision,
        reached: answers.levelOf(spread?.reached ?? 0),
        appliedBy: spread?.appliedBy ?? [],
        lagging: spread?.lagging ?? [],
      };
    } catch (error) {
      throw failureOf(error);
    }
  }

  /** Give the whole flag set, then every change; reconnects and resumes by itself until `close` or the signal. */
  watch(options: WatchOptions = {}): AsyncGenerator<Snapshot | Change, void, void> {
    const signals = [this.#closing.signal, ...(options.signal ? [options.signal] : [])];
    const open = async (resumeRevision: bigint) => {
      const request = { flagSet: this.#flagSet, resumeRevision, pagedSnapshots: false };
      return this.#stub.watchFlags(request, await this.#access.metadata());
    };
    return watch(open, AbortSignal.any(signals));
  }

  /** End all streams and connections; evaluations give their defaults from now on. */
  close(): void {
    this.#closing.abort();
    this.#stub.close();
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
        flagSet: this.#flagSet,
        context: toContext(context),
        expectedType: type,
        explain: false,
        minRevision: this.#minimum(options),
        asOf: undefined,
      };
      const { evaluation } = await this.#call(this.#stub.evaluateFlag, request, options.timeoutMs);
      if (!evaluation) throw new FlagServiceError(status.INTERNAL, 'the server answered without an evaluation');
      return answers.fromEvaluation(evaluation, standing);
    } catch (error) {
      const failure = this.#failed(`flag ${JSON.stringify(key)}`, error);
      return answers.failed(key, standing, errorCodeOf(failure), failure.message);
    }
  }

  #minimum(options: CallOptions): bigint {
    const asked = options.minRevision ?? 0n;
    return asked > this.#written ? asked : this.#written;
  }

  /** Tell of a failed evaluation once, and rethrow it where that was asked for. */
  #failed(what: string, error: unknown): FlagServiceError {
    const failure = failureOf(error);
    if (this.#options.raiseErrors) throw failure;
    const name = status[failure.code] ?? 'UNKNOWN';
    this.#trouble.say(
      `${name} ${failure.reason}`,
      `${what} could not be evaluated, the default stands: ${name}: ${failure.message}`,
    );
    return failure;
  }

  async #call<Request, Response>(
    method: (request: Request, metadata: Metadata, options: { deadline: number }, answer: Answer<Response>) => unknown,
    request: Request,
    timeoutMs: number = this.#timeoutMs,
  ): Promise<Response> {
    const deadline = Date.now() + timeoutMs;
    await this.#turns.take(timeoutMs);
    try {
      if (this.#closing.signal.aborted) throw new FlagServiceError(status.UNAVAILABLE, 'the client is closed');
      const metadata = await this.#access.metadata();
      return await new Promise<Response>((resolve, reject) => {
        const answer: Answer<Response> = (error, response) => (error ? reject(error) : resolve(response));
        method.call(this.#stub, request, metadata, { deadline }, answer);
      });
    } finally {
      this.#turns.give();
    }
  }
}
