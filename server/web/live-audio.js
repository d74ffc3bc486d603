// Runs where the browser makes sound: gathers the microphone's samples and hands them on in chunks of a tenth of a second.

class Gatherer extends AudioWorkletProcessor {
  constructor() {
    super();
    this.chunk = new Float32Array(Math.round(sampleRate / 10));
    this.filled = 0;
  }

  process([channels]) {
    const samples = channels[0];
    if (!samples) return true;
    let taken = 0;
    while (taken < samples.length) {
      const room = Math.min(samples.length - taken, this.chunk.length - this.filled);
      this.chunk.set(samples.subarray(taken, taken + room), this.filled);
      taken += room;
      this.filled += room;
      if (this.filled === this.chunk.length) {
        this.port.postMessage(this.chunk);  // a copy
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("gatherer", Gatherer);
