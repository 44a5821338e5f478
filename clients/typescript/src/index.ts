/** Feature flags from flagsvc. */

export type { AccessOptions, Tls } from './access.js';
export {
  FlagClient,
  type BatchOptions,
  type CallOptions,
  type FlagClientOptions,
} from './client.js';
export type { EnabledOptions } from './client.js';
export type { HistoryEntry } from './definitions.js';
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
export type { Flag, FlagFields, Prerequisite } from './flags.js';
export type { At, FlagRevision, SetRollback } from './revisions.js';
export type { RolloutPoint, RolloutState, RolloutStatus, RolloutWritten, Way } from './rollouts.js';
export type { OnConflict, PlanOptions, Schedule, ScheduleState } from './schedules.js';
export type { Segment, SegmentUpdate, SegmentUsers } from './segments.js';
export type { Context, JsonObject, JsonValue } from './values.js';
export type { Change, Snapshot, WatchOptions } from './watching.js';
export type { WriteOptions, WriteOptions as ToggleOptions, Written } from './writes.js';
