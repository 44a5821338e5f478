/** What an evaluation answers, in OpenFeature's words. */

import type { FlagEvaluation } from './gen/flagsvc/v1/flag_service.js';
import * as wire from './gen/flagsvc/v1/types.js';
import { type JsonObject, fromFields, fromValue } from './values.js';

const REASONS = [
  'UNKNOWN',
  'STATIC',
  'DEFAULT',
  'TARGETING_MATCH',
  'SPLIT',
  'CACHED',
  'DISABLED',
  'STALE',
  'ERROR',
  'UNKNOWN',
] as const;
const ERROR_CODES = [
  undefined,
  'FLAG_NOT_FOUND',
  'TYPE_MISMATCH',
  'PARSE_ERROR',
  'TARGETING_KEY_MISSING',
  'INVALID_CONTEXT',
  'PROVIDER_NOT_READY',
  'GENERAL',
] as const;
const SOURCES = ['NONE', 'NEAR_CACHE', 'CACHE', 'STORE', 'SNAPSHOT'] as const;
const STATUSES = ['', 'ENABLED', 'DISABLED', 'BETA', 'DEPRECATED'] as const;
const LEVELS = ['', 'STORED', 'CACHED', 'APPLIED'] as const;

/** Why an evaluation has its value. UNKNOWN also for a reason that this release does not know. */
export type Reason = (typeof REASONS)[number];
/** What went wrong. GENERAL also for a code that this release does not know. */
export type ErrorCode = NonNullable<(typeof ERROR_CODES)[number]>;
/** Where the definition came from. NONE: nowhere (an error), or a source that this release does not know. */
export type Source = (typeof SOURCES)[number];
/** Status of a flag; empty when it is unknown. */
export type FlagStatus = (typeof STATUSES)[number];
/** How far a change has spread; empty for a level that this release does not know. */
export type WriteLevel = (typeof LEVELS)[number];
/** What a flag can evaluate to. */
export type FlagValue = boolean | string | number | bigint | JsonObject;
/** The type of a default, without the very value. */
export type Widened<T> = T extends boolean
  ? boolean
  : T extends string
    ? string
    : T extends number
      ? number
      : T extends bigint
        ? bigint
        : T;

/** What a flag evaluated to. `value` is the caller's default where the flag has none or could not be evaluated. */
export interface EvaluationDetails<T> {
  readonly flagKey: string;
  readonly value: T;
  /** The value's variant; unset where the default stands. */
  readonly variant?: string;
  readonly reason: Reason;
  /** Unset unless the reason is ERROR. */
  readonly errorCode?: ErrorCode;
  readonly errorMessage: string;
  readonly flagMetadata: JsonObject;
  /** Revision of the definition; 0n: not known. */
  readonly revision: bigint;
  readonly source: Source;
  /** Milliseconds since the definition was last known to be the store's. */
  readonly ageMs: number;
  readonly status: FlagStatus;
  /** Whether the flag's status is ENABLED and its value is true. */
  readonly enabled: boolean;
}

/** Give the name of a status. */
export const statusOf = (status: wire.FlagStatus): FlagStatus => STATUSES[status] ?? '';

/** Give the number of a status. */
export const statusNumber = (status: FlagStatus): number => STATUSES.indexOf(status);

/** Give the name of a level. */
export const levelOf = (level: number): WriteLevel => LEVELS[level] ?? '';

/** Give the number of a level in a request; 0 leaves it to the server. */
export const levelNumber = (level: WriteLevel): number => LEVELS.indexOf(level);

/** Give the type to ask for, which is the default's; a TypeError for what no flag can be. */
export function typeOf(value: unknown): wire.ValueType {
  switch (typeof value) {
    case 'boolean':
      return wire.ValueType.VALUE_TYPE_BOOLEAN;
    case 'string':
      return wire.ValueType.VALUE_TYPE_STRING;
    case 'bigint':
      return wire.ValueType.VALUE_TYPE_INTEGER;
    case 'number':
      return wire.ValueType.VALUE_TYPE_FLOAT;
    case 'object':
      if (value !== null && !Array.isArray(value)) return wire.ValueType.VALUE_TYPE_OBJECT;
  }
  const given = value === null ? 'null' : Array.isArray(value) ? 'an array' : typeof value;
  throw new TypeError(`the default is ${given}; it must be a boolean, string, number, bigint or object`);
}

/** Unpack an outcome that must be of the default's type. */
export function fromEvaluation<T>(found: FlagEvaluation, standing: T): EvaluationDetails<T> {
  const value = fromKind(found.value, standing);
  const unknown = found.value !== undefined && value === undefined;
  if (!unknown) return detailsOf(found, value === undefined ? standing : (value as T));
  const errorMessage = 'the server answered with a value of a kind that this client does not know';
  const { variant: _, ...rest } = detailsOf(found, standing);
  return { ...rest, reason: 'ERROR', errorCode: 'GENERAL', errorMessage };
}

/** Unpack an outcome of any type; undefined where the caller's default stands. */
export function fromAnyEvaluation(found: FlagEvaluation): EvaluationDetails<ReturnType<typeof fromValue>> {
  return detailsOf(found, fromValue(found.value));
}

/** Give the details of a default that stands because of an error. */
export function failed<T>(flagKey: string, value: T, errorCode: ErrorCode, errorMessage: string): EvaluationDetails<T> {
  const unknown = { flagMetadata: {}, revision: 0n, source: 'NONE', ageMs: 0, status: '', enabled: false } as const;
  return { flagKey, value, reason: 'ERROR', errorCode, errorMessage, ...unknown };
}

function fromKind(value: wire.Value | undefined, standing: unknown): unknown {
  const kind = value?.kind;
  if (kind?.$case === 'integerValue') return typeof standing === 'bigint' ? kind.value : Number(kind.value);
  const found = fromValue(value);
  return typeof found === typeof standing && found !== null && !Array.isArray(found) ? found : undefined;
}

function detailsOf<T>(found: FlagEvaluation, value: T): EvaluationDetails<T> {
  const errorCode = found.errorCode < ERROR_CODES.length ? ERROR_CODES[found.errorCode] : 'GENERAL';
  return {
    flagKey: found.flagKey,
    value,
    ...(found.variant && { variant: found.variant }),
    reason: REASONS[found.reason] ?? 'UNKNOWN',
    ...(errorCode && { errorCode }),
    errorMessage: found.errorMessage,
    flagMetadata: fromFields(found.flagMetadata),
    revision: found.revision,
    source: SOURCES[found.source] ?? 'NONE',
    ageMs: Number(found.ageMs),
    status: statusOf(found.status),
    enabled: found.enabled,
  };
}
