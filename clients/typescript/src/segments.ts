/** Segments: named rules of the flag set that its flags share. */

import { FlagServiceError } from './errors.js';
import * as pb from './gen/flagsvc/v1/segment_service.js';
import { allOf } from './pages.js';
import { Rollouts } from './rollouts.js';
import { type WriteOptions, authorOf, waitMsOf, writeFields } from './writes.js';

/** A named rule, which flags and other segments use as `{"$ref": "segment:NAME"}`. */
export interface Segment {
  readonly name: string;
  readonly flagSet: string;
  /** As JSON text. */
  readonly rule: string;
  readonly description: string;
  readonly etag: string;
  /** Revision of the flag set since which flags have the rule. */
  readonly revision: bigint;
  readonly createTime?: Date;
  readonly updateTime?: Date;
}

/** Who uses a segment: the keys of at most 1,000 flags, their number, and the names of segments. */
export interface SegmentUsers {
  readonly flagKeys: readonly string[];
  readonly flags: number;
  readonly segmentNames: readonly string[];
}

/** A changed segment, and the keys of the flags that were changed with it, or would be. */
export interface SegmentUpdate {
  readonly segment: Segment;
  readonly flags: readonly string[];
}

type Once = Pick<WriteOptions, 'reason' | 'onBehalfOf' | 'requestId'>;

/** The part of a client that is about segments. Every failed call rejects with a FlagServiceError. */
export abstract class Segments extends Rollouts {
  /** Read all segments of the set, by name. */
  async segments(): Promise<Segment[]> {
    const { segments, flagSet } = this.caller;
    return allOf(
      (wanted) => this.caller.stored(segments, segments.listSegments, { flagSet, ...wanted }),
      (page) => page.segments.map(segmentOf),
    );
  }

  /** Read one segment. */
  async segment(name: string): Promise<Segment> {
    return segmentOf((await this.#get(name)).segment);
  }

  /** Read who uses a segment. */
  async segmentUsers(name: string): Promise<SegmentUsers> {
    return (await this.#get(name)).users ?? { flagKeys: [], flags: 0, segmentNames: [] };
  }

  /** Create a segment. `rule`: JSON text. */
  async createSegment(name: string, rule: string, options: Once & { readonly description?: string } = {}): Promise<Segment> {
    const { caller } = this;
    const { segments, flagSet } = caller;
    const segment = { name, flagSet, rule, description: options.description ?? '' };
    const { requestId = '' } = options;
    const request = pb.CreateSegmentRequest.fromPartial({ segment, requestId, ...authorOf(caller, options) });
    return segmentOf((await caller.stored(segments, segments.createSegment, request)).segment);
  }

  /** Change a segment, and every flag that uses it, in one transaction. Later reads show it. */
  async updateSegment(
    name: string,
    fields: { readonly rule?: string; readonly description?: string },
    options: WriteOptions = {},
  ): Promise<SegmentUpdate> {
    const { caller } = this;
    const { segments, flagSet } = caller;
    const request = pb.UpdateSegmentRequest.fromPartial({
      segment: { ...fields, name, flagSet, etag: options.etag ?? '' },
      updateMask: Object.keys(fields),
      ...writeFields(caller, options),
    });
    const done = await caller.stored(segments, segments.updateSegment, request, waitMsOf(options));
    if (done.spread) caller.noteWritten(done.spread.revision);
    return { segment: segmentOf(done.segment), flags: done.flags.map(({ flagKey }) => flagKey) };
  }

  /** Delete a segment that nothing uses. */
  async deleteSegment(name: string, options: Once & { readonly etag?: string } = {}): Promise<void> {
    const { caller } = this;
    const { segments, flagSet } = caller;
    const { etag = '', requestId = '' } = options;
    const request = { flagSet, name, etag, requestId, validateOnly: false, ...authorOf(caller, options) };
    await caller.stored(segments, segments.deleteSegment, request);
  }

  async #get(name: string): Promise<pb.GetSegmentResponse> {
    const { segments, flagSet } = this.caller;
    return this.caller.stored(segments, segments.getSegment, { flagSet, name });
  }
}

function segmentOf(found: pb.Segment | undefined): Segment {
  if (!found) throw new FlagServiceError(13, 'the server answered without a segment');
  const { createTime, updateTime, ...rest } = found;
  return { ...rest, ...(createTime && { createTime }), ...(updateTime && { updateTime }) };
}
