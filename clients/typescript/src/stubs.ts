/** The generated stubs: everything that the service can do, as the contract has it. */

export * from './gen/flagsvc/v1/flag_service.js';
export * from './gen/flagsvc/v1/rollout_service.js';
export * from './gen/flagsvc/v1/schedule_service.js';
export * from './gen/flagsvc/v1/segment_service.js';
export * from './gen/flagsvc/v1/types.js';
