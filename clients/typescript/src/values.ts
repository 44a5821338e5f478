/** JSON values and evaluation contexts, to and from their wire form. Integers stay integers. */

import { EvaluationContext, NullValue, Value } from './gen/flagsvc/v1/types.js';

/** Any JSON value. A whole number that a `number` cannot hold exactly is a `bigint`. */
export type JsonValue = null | boolean | number | bigint | string | JsonValue[] | JsonObject;
/** A JSON object. */
export type JsonObject = { [name: string]: JsonValue };
/** A value in a context: JSON, or a Date, which is sent as ISO 8601 text. */
export type ContextValue =
  null | undefined | boolean | number | bigint | string | Date | ContextValue[] | { [name: string]: ContextValue };
/** For whom a flag is evaluated: who it is, such as a user's id, and further facts. */
export type Context = { targetingKey?: string } & { [name: string]: ContextValue };

const MAX_DEPTH = 64;

/** What a context or value is refused with, before anything is sent. */
export class InvalidValue extends Error {}

/** Pack a value; an InvalidValue says what JSON cannot have. */
export function toValue(value: ContextValue, depth = 0): Value {
  return { kind: toKind(value, depth) };
}

function toKind(value: ContextValue, depth: number): NonNullable<Value['kind']> {
  if (depth > MAX_DEPTH) throw new InvalidValue('a value that is nested too deep, or holds itself');
  switch (typeof value) {
    case 'boolean':
      return { $case: 'booleanValue', value };
    case 'string':
      return { $case: 'stringValue', value };
    case 'bigint':
      if (BigInt.asIntN(64, value) !== value) throw new InvalidValue('a bigint that needs more than 64 bits');
      return { $case: 'integerValue', value };
    case 'number':
      if (!Number.isFinite(value)) throw new InvalidValue(`the number ${value}`);
      if (Number.isSafeInteger(value)) return { $case: 'integerValue', value: BigInt(value) };
      return { $case: 'floatValue', value };
    case 'object':
      return toComposite(value, depth);
    default:
      throw new InvalidValue(`a ${typeof value}`);
  }
}

function toComposite(value: ContextValue & (object | null), depth: number): NonNullable<Value['kind']> {
  if (value === null) return { $case: 'nullValue', value: NullValue.NULL_VALUE_UNSPECIFIED };
  if (value instanceof Date) {
    if (Number.isNaN(value.getTime())) throw new InvalidValue('an invalid Date');
    return { $case: 'stringValue', value: value.toISOString() };
  }
  if (Array.isArray(value)) {
    const values = value.map((element) => toValue(element === undefined ? null : element, depth + 1));
    return { $case: 'listValue', value: { values } };
  }
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== null && Object.getPrototypeOf(prototype) !== null)
    throw new InvalidValue(`a ${value.constructor.name}`);
  return { $case: 'objectValue', value: { fields: toFields(value, depth) } };
}

/** Pack an object's fields. */
export function toFields(fields: { [name: string]: ContextValue }, depth: number): Map<string, Value> {
  const given = Object.entries(fields).filter(([, value]) => value !== undefined);
  return new Map(given.map(([name, value]) => [name, toValue(value, depth + 1)]));
}

/** Unpack a value; undefined for a kind that this release does not know. */
export function fromValue(value: Value | undefined): JsonValue | undefined {
  const kind = value?.kind;
  if (!kind) return undefined;
  switch (kind.$case) {
    case 'nullValue':
      return null;
    case 'integerValue':
      return Number.isSafeInteger(Number(kind.value)) ? Number(kind.value) : kind.value;
    case 'listValue':
      return kind.value.values.map((element) => fromValue(element) ?? null);
    case 'objectValue':
      return fromFields(kind.value.fields);
    default:
      return kind.value;
  }
}

/** Unpack an object's fields. */
export function fromFields(fields: Map<string, Value>): JsonObject {
  return Object.fromEntries([...fields].map(([name, value]) => [name, fromValue(value) ?? null]));
}

/** Pack a context; an InvalidValue says what it cannot have. */
export function toContext({ targetingKey = '', ...attributes }: Context): EvaluationContext {
  if (typeof targetingKey !== 'string') throw new InvalidValue('a targetingKey that is not a string');
  return { targetingKey, attributes: toFields(attributes, 0) };
}
