/** Feature flags from flagsvc. */

export type { AccessOptions, Tls } from './access.js';
export {
  FlagClient,
  type BatchOptions,
  type CallOptions,
  type FlagClientOptions,
  type ToggleOptions,
} from './client.js';
export type { EnabledOptions, Written } from './client.js';
export type {
  ErrorCode,
  EvaluationDetails,
  FlagStatus,
  FlagValue,
  Reason,
  Source,
  Widened,
  WriteLevel,
} from './details.js';
export { FlagServiceError, type Violation } from './errors.js';
export type { Flag } from './flags.js';
export type { Context, JsonObject, JsonValue } from './values.js';
export type { Change, Snapshot, WatchOptions } from './watching.js';
