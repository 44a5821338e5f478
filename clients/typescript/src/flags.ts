/** A flag's definition, as watchers see it. */

import type { FlagStatus } from './details.js';
import { statusOf } from './details.js';
import type * as wire from './gen/flagsvc/v1/types.js';
import { type JsonObject, type JsonValue, fromFields, fromValue } from './values.js';

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
    revision: flag.revision,
    etag: flag.etag,
    ...(flag.updatedAt && { updatedAt: flag.updatedAt }),
  };
}
