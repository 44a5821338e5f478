/** A flag's definition, as watchers see it. */

import { type FlagStatus, statusNumber, statusOf } from './details.js';
import type * as wire from './gen/flagsvc/v1/types.js';
import { type JsonObject, type JsonValue, fromFields, fromValue, toFields, toValue } from './values.js';

/** A flag of the same set, and variants of which it must have one. */
export interface Prerequisite {
  readonly flagKey: string;
  readonly variants: readonly string[];
}

/** A flag's definition. */
export interface Flag {
  readonly key: string;
  readonly flagSet: string;
  readonly name: string;
  readonly description?: string;
  readonly category: string;
  readonly status: FlagStatus;
  readonly config?: JsonValue;
  readonly owner?: string;
  /** Values by variant name; none: a plain switch. */
  readonly variants: JsonObject;
  readonly defaultVariant: string;
  /** Targeting rule as JSON text; empty: none. */
  readonly targeting: string;
  readonly metadata: JsonObject;
  readonly prerequisites: readonly Prerequisite[];
  readonly revision: bigint;
  readonly etag: string;
  readonly updatedAt?: Date;
}

/** Unpack a definition. */
export function fromFlag(flag: wire.Flag): Flag {
  const config = fromValue(flag.config);
  return {
    key: flag.key,
    flagSet: flag.flagSet,
    name: flag.name,
    ...(flag.description !== undefined && { description: flag.description }),
    category: flag.category,
    status: statusOf(flag.status),
    ...(config !== undefined && { config }),
    ...(flag.owner !== undefined && { owner: flag.owner }),
    variants: fromFields(flag.variants),
    defaultVariant: flag.defaultVariant,
    targeting: flag.targeting,
    metadata: fromFields(flag.metadata),
    prerequisites: flag.prerequisites,
    revision: flag.revision,
    etag: flag.etag,
    ...(flag.updatedAt && { updatedAt: flag.updatedAt }),
  };
}

/** Fields to set. `null` removes an optional one. */
export interface FlagFields {
  readonly name?: string;
  readonly description?: string | null;
  readonly category?: string;
  readonly status?: Exclude<FlagStatus, ''>;
  readonly config?: JsonValue;
  readonly owner?: string | null;
  readonly variants?: JsonObject;
  readonly defaultVariant?: string | null;
  /** As JSON text. */
  readonly targeting?: string | null;
  readonly metadata?: JsonObject;
  readonly prerequisites?: readonly Prerequisite[];
}

/** Pack fields, and their names in the contract. */
export function toPatch(fields: FlagFields): { patch: Partial<wire.Flag>; updateMask: string[] } {
  const { status, config, variants, metadata, prerequisites, ...texts } = fields;
  const given = Object.entries(texts).filter(([, text]) => text !== null && text !== undefined);
  const names = Object.entries(fields).filter(([, value]) => value !== undefined);
  return {
    patch: {
      ...Object.fromEntries(given),
      ...(status && { status: statusNumber(status) }),
      ...(config !== undefined && config !== null && { config: toValue(config) }),
      ...(variants && { variants: toFields(variants, 0) }),
      ...(metadata && { metadata: toFields(metadata, 0) }),
      ...(prerequisites && {
        prerequisites: prerequisites.map(({ flagKey, variants }) => ({ flagKey, variants: [...variants] })),
      }),
    },
    updateMask: names.map(([name]) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)),
  };
}
