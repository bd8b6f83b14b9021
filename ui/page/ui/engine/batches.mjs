/** Batches: the same rows several times over. */

import { leafOf } from "./archive.mjs";

const BATCH = "batch";

/** Whether a method takes rows that are independent of each other: a size that it calls batch. */
export function hasBatch(method) {
  return method.inputs.some(({ shape }) => shape.includes(BATCH));
}

/** Repeats each tensor along its batch dimension, `times` times; those without one stay as they are. */
export function repeated(leaves, tensors, times) {
  return Object.fromEntries(
    Object.entries(tensors).map(([name, tensor]) => {
      const axis = leafOf(leaves, name)?.shape.indexOf(BATCH) ?? -1;
      return [name, axis < 0 || times === 1 ? tensor : tensor.repeat(times, axis)];
    }),
  );
}
