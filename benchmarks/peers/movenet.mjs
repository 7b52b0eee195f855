// MoveNet on square RGB crops: node movenet.mjs thunder|lightning SIZE < crops.rgb > keypoints.f32
// In: uint8, SIZE x SIZE x 3 per crop. Out: float32, 17 x (y, x, score) per crop, relative to its size.
import { readFileSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import * as tf from '@tensorflow/tfjs-core';
import { loadGraphModel } from '@tensorflow/tfjs-converter';
import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
import '@tensorflow/tfjs-backend-wasm';

const [name, size] = [process.argv[2], Number(process.argv[3])];
const require = createRequire(import.meta.url);
const folder = (pack) => path.dirname(require.resolve(`${pack}/package.json`));
setWasmPaths(path.join(folder('@tensorflow/tfjs-backend-wasm'), 'wasm-out') + path.sep);
await tf.setBackend('wasm');

const models = path.join(path.dirname(fileURLToPath(import.meta.url)), 'movenet');
const manifest = JSON.parse(readFileSync(path.join(models, `movenet-${name}.json`)));
const weights = readFileSync(path.join(models, `movenet-${name}.bin`));
const model = await loadGraphModel({
  load: async () => ({
    modelTopology: manifest.modelTopology,
    format: manifest.format,
    signature: manifest.signature,
    weightSpecs: manifest.weightsManifest.flatMap((group) => group.weights),
    weightData: weights.buffer.slice(weights.byteOffset, weights.byteOffset + weights.byteLength),
  }),
});

const crops = readFileSync(0);
const bytes = size * size * 3;
for (let start = 0; start < crops.length; start += bytes) {
  const out = tf.tidy(() => {
    const crop = tf.tensor(new Int32Array(crops.subarray(start, start + bytes)), [1, size, size, 3], 'int32');
    return model.execute(crop).dataSync().slice();
  });
  writeSync(1, new Uint8Array(out.buffer));
}
