/** A client without a server, for tests: values by key, and rules by flagd's own engine where a test needs them. */

import { status } from '@grpc/grpc-js';
import { Caller } from './caller.js';
import { type BatchOptions, type EnabledOptions, FlagClient } from './client.js';
import * as answers from './details.js';
import type { ErrorCode, EvaluationDetails, FlagValue, Reason, Widened } from './details.js';
import { FlagServiceError } from './errors.js';
import { type Context, InvalidValue, type JsonObject, type JsonValue, toContext } from './values.js';
import type { Change, Snapshot, WatchOptions } from './watching.js';
import type { WriteOptions, Written } from './writes.js';

/** What a flag has for everybody; null: it is off, so that callers get their defaults. */
export type Value = FlagValue | null;

/** What is used of `FlagdCore` of @openfeature/flagd-core, after its `setConfigurations`. */
export interface Rules {
  getFlags(): Map<string, unknown>;
  getFlag(key: string): { readonly state: string; evaluate(context: never): RuleResult } | undefined;
}

/** What a rule of flagd's engine results in. */
export interface RuleResult {
  readonly value?: unknown;
  readonly variant?: string;
  readonly reason: string;
  readonly errorCode?: string;
  readonly errorMessage?: string;
  readonly flagMetadata?: unknown;
}

/** How an in-memory client behaves. */
export interface InMemoryOptions {
  /** Flags with rules. A value by key takes precedence. */
  readonly flagd?: Rules;
  /** Whether an unknown key, a wrong type or a bad context rejects with a StrictError. Default: no, the default stands. */
  readonly strict?: boolean;
}

/** In strict mode: code asked for a flag that does not exist, or in a way that cannot be right. */
export class StrictError extends Error {
  override readonly name = 'StrictError';
}

/** Sends nothing. */
class NoServer extends Caller {
  override async stored(): Promise<never> {
    const text = 'flags in memory have evaluations, toggles and watches only: no definitions, revisions, schedules, rollouts or segments';
    throw new FlagServiceError(status.UNIMPLEMENTED, text);
  }
}

/** A FlagClient whose flags are in memory. Only evaluations, toggles and watches of them; nothing is sent. */
export class InMemoryFlagClient extends FlagClient {
  protected override readonly caller = new NoServer('127.0.0.1:1', {});
  readonly #values: Map<string, Value>;
  readonly #flagd: Rules | undefined;
  readonly #strict: boolean;
  readonly #listeners = new Set<(change: Change | undefined) => void>();
  #revision = 1n;

  constructor(values: Readonly<Record<string, Value>> = {}, options: InMemoryOptions = {}) {
    super('127.0.0.1:1', { log: () => {} });
    this.#values = new Map(Object.entries(values));
    this.#flagd = options.flagd;
    this.#strict = options.strict ?? false;
  }

  /** Set a flag's value for everybody. */
  set(key: string, value: Value): void {
    this.#values.set(key, value);
    this.#changed(key);
  }

  /** Remove a value; a flag of `flagd` with this key is seen again. */
  remove(key: string): void {
    this.#values.delete(key);
    this.#changed(key);
  }

  /** Set a flag's value until the returned function is called. */
  override(key: string, value: Value): () => void {
    const before = this.#values.get(key);
    this.set(key, value);
    return () => (before === undefined ? this.remove(key) : this.set(key, before));
  }

  override async isEnabled(key: string, context: Context = {}, options: EnabledOptions = {}): Promise<boolean> {
    const standing = options.default ?? false;
    const { enabled, errorCode } = this.#evaluate(key, standing, context, true);
    return errorCode && errorCode !== 'FLAG_NOT_FOUND' ? standing : enabled;
  }

  override async boolean(key: string, standing: boolean, context: Context = {}): Promise<boolean> {
    return this.#ofType(key, standing, 'boolean', context);
  }

  override async string(key: string, standing: string, context: Context = {}): Promise<string> {
    return this.#ofType(key, standing, 'string', context);
  }

  override async number(key: string, standing: number, context: Context = {}): Promise<number> {
    return this.#ofType(key, standing, 'number', context);
  }

  override async integer(key: string, standing: bigint, context: Context = {}): Promise<bigint> {
    return this.#ofType(key, standing, 'bigint', context);
  }

  override async object(key: string, standing: JsonObject, context: Context = {}): Promise<JsonObject> {
    return this.#ofType(key, standing, 'object', context);
  }

  override async details<T extends FlagValue>(
    key: string,
    standing: T,
    context: Context = {},
  ): Promise<EvaluationDetails<Widened<T>>> {
    answers.typeOf(standing);
    return this.#evaluate(key, standing as Widened<T>, context);
  }

  override async batch(
    context: Context = {},
    options: BatchOptions = {},
  ): Promise<Map<string, EvaluationDetails<JsonValue | undefined>>> {
    const keys = options.keys ?? this.#keys();
    return new Map([...keys].map((key) => [key, this.#evaluate<JsonValue | undefined>(key, undefined, context, true)]));
  }

  override async toggle(key: string, enabled: boolean, options: WriteOptions = {}): Promise<Written> {
    if (!this.#keys().includes(key)) throw new FlagServiceError(status.NOT_FOUND, `${key}: no such flag`);
    if (options.validateOnly) return { revision: this.#revision, reached: '', appliedBy: [], lagging: [] };
    this.set(key, enabled ? true : null);
    return { revision: this.#revision, reached: 'APPLIED', appliedBy: ['in-memory'], lagging: [] };
  }

  /** Give an empty snapshot, then a change for every `set`, `remove`, `override` and `toggle`. */
  override async *watch(options: WatchOptions = {}): AsyncGenerator<Snapshot | Change, void, void> {
    const waiting: (Change | undefined)[] = [];
    let wake = () => {};
    const listener = (change: Change | undefined) => {
      waiting.push(change);
      wake();
    };
    const end = () => listener(undefined);
    this.#listeners.add(listener);
    options.signal?.addEventListener('abort', end);
    try {
      yield { kind: 'snapshot', flags: [] };
      while (!options.signal?.aborted) {
        if (waiting.length === 0) await new Promise<void>((resolve) => (wake = resolve));
        const change = waiting.shift();
        if (!change) return;
        yield change;
      }
    } finally {
      this.#listeners.delete(listener);
      options.signal?.removeEventListener('abort', end);
    }
  }

  override close(): void {
    super.close();
    for (const listener of this.#listeners) listener(undefined);
  }

  #changed(key: string): void {
    this.#revision += 1n;
    for (const listener of this.#listeners) listener({ kind: 'change', key, revision: this.#revision });
  }

  #keys(): string[] {
    return [...new Set([...this.#values.keys(), ...(this.#flagd?.getFlags().keys() ?? [])])];
  }

  #ofType<T>(key: string, standing: T, wanted: string, context: Context): T {
    answers.typeOf(standing);
    if (typeof standing !== wanted) throw new TypeError(`the default is a ${typeof standing}; it must be a ${wanted}`);
    return this.#evaluate(key, standing, context).value;
  }

  #evaluate<T>(key: string, standing: T, context: Context, anyType = false): EvaluationDetails<T> {
    try {
      toContext(context);
    } catch (error) {
      if (!(error instanceof InvalidValue)) throw error;
      return this.#failed(key, standing, 'INVALID_CONTEXT', `the context has ${error.message}`);
    }
    const found = this.#found(key, context);
    if (!found) return this.#failed(key, standing, 'FLAG_NOT_FOUND', this.#unknown(key));
    if (found.errorCode)
      return this.#failed(key, standing, found.errorCode as ErrorCode, found.errorMessage ?? found.errorCode);
    const { variant, reason } = found;
    const isOff = found.value === undefined || found.value === null;
    const value = isOff ? standing : anyType ? found.value : asType(found.value, standing);
    if (value === undefined && !isOff)
      return this.#failed(key, standing, 'TYPE_MISMATCH', `its value is a ${typeof found.value}`);
    return {
      flagKey: key,
      value: value as T,
      ...(!isOff && variant !== undefined && { variant }),
      reason: reason as Reason,
      errorMessage: '',
      flagMetadata: (found.flagMetadata ?? {}) as JsonObject,
      revision: this.#revision,
      source: 'NEAR_CACHE',
      ageMs: 0,
      status: reason === 'DISABLED' ? 'DISABLED' : 'ENABLED',
      enabled: found.value === true,
    };
  }

  #found(key: string, context: Context): RuleResult | undefined {
    const value = this.#values.get(key);
    if (value === null) return { reason: 'DISABLED' };
    const variant = value === true ? 'on' : value === false ? 'off' : 'value';
    if (value !== undefined) return { value, reason: 'STATIC', variant };
    const flag = this.#flagd?.getFlag(key);
    return flag?.state === 'DISABLED' ? { reason: 'DISABLED' } : flag?.evaluate(context as never);
  }

  #failed<T>(key: string, standing: T, code: ErrorCode, message: string): EvaluationDetails<T> {
    if (this.#strict) throw new StrictError(`flag ${JSON.stringify(key)} cannot be evaluated: ${code}, ${message}`);
    return answers.failed(key, standing, code, message);
  }

  #unknown(key: string): string {
    return `there is no flag ${JSON.stringify(key)}; the flags are ${this.#keys().sort().join(', ') || 'none'}`;
  }
}

/** Give a value as the default's type; undefined if it is of another. */
function asType(value: unknown, standing: unknown): unknown {
  if (typeof standing === 'bigint' && typeof value === 'number' && Number.isSafeInteger(value)) return BigInt(value);
  if (typeof standing === 'number' && typeof value === 'bigint') return Number(value);
  return typeof value === typeof standing && !Array.isArray(value) ? value : undefined;
}
