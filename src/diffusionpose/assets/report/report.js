"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const COLOURS = { left: "#f58614", right: "#3ca0f0", centre: "#f0f0eb" };
  const FLOOR = 0.2, OPAQUE = 0.7;
  const numFrames = data.frames.length, numJoints = data.joints.length;

  // ---------------------------------------------------------------- numbers
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const int16 = (text) => { const b = bytes(text); return new Int16Array(b.buffer, 0, b.length / 2); };
  const { place, share, missing } = data.units;
  const people = data.people.map((p) => ({
    ...p,
    places: int16(p.places), scores: bytes(p.scores), filled: bytes(p.filled),
    boxes: int16(p.boxes), lengths: int16(p.lengths), angles: int16(p.angles),
  }));
  // A person's rows go from the first frame to the last one: in others there is nothing to read.
  const isPresent = (p, frame) => (p.boxes[4 * (frame - p.first)] ?? missing) !== missing;
  const box = (p, frame) => p.boxes.subarray(4 * (frame - p.first), 4 * (frame - p.first) + 4);
  const at = (p, frame, joint) => {
    const n = 2 * ((frame - p.first) * numJoints + joint), x = p.places[n] ?? missing;
    return x === missing ? null : { x: x * place, y: p.places[n + 1] * place, s: p.scores[n / 2] / 255 };
  };
  const position = new Map(data.frames.map((index, n) => [index, n]));
  const counted = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;
  const words = (name) => name.replaceAll("_", " ");
  const state = { frame: 0, person: 0, joint: 0, series: "lengths" };

  // ---------------------------------------------------------------- canvases
  function fit(canvas, ratio) {
    const width = Math.max(1, canvas.clientWidth), scale = window.devicePixelRatio || 1;
    const height = typeof ratio === "number" && ratio < 20 ? width * ratio : ratio;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const g = canvas.getContext("2d");
    g.setTransform(scale, 0, 0, scale, 0, 0);
    return [g, width, height];
  }
  const images = new Map();
  function image(uri) {
    if (!images.has(uri)) {
      const one = new Image();
      one.onload = () => draw();
      one.src = uri;
      images.set(uri, one);
    }
    const found = images.get(uri);
    return found.complete && found.naturalWidth ? found : null;
  }

  // ---------------------------------------------------------------- the video
  const video = $("source");
  if (data.video) video.src = data.video;
  const hasVideo = Boolean(data.video);
  const [width, height] = data.size;
  let playing = false, clockStart = 0, timeStart = 0;

  function frameAt(time) {
    let low = 0, high = numFrames - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (data.times[middle] <= time + 1e-3) low = middle; else high = middle - 1;
    }
    return low;
  }
  function go(frame) {
    state.frame = Math.min(Math.max(0, frame), Math.max(0, numFrames - 1));
    if (hasVideo && !playing) seek();
    draw();
  }
  function seek() {
    // Into the frame, not onto its edge; only a little, as a browser may take the nearest start for the frame.
    const start = data.times[state.frame] || 0, next = data.times[state.frame + 1] ?? start + 0.02;
    video.currentTime = start + Math.min(0.003, (next - start) / 2);
  }
  function play(wanted) {
    playing = wanted && numFrames > 1;
    if (tellsPictures) video.cancelVideoFrameCallback(awaited);
    $("play").textContent = playing ? "Pause" : "Play";
    $("play").setAttribute("aria-label", playing ? "Pause" : "Play");
    if (playing && state.frame >= numFrames - 1) state.frame = 0;
    timeStart = data.times[state.frame] || 0;
    clockStart = performance.now();
    if (hasVideo) {
      video.playbackRate = Number($("speed").value);
      if (playing) { seek(); video.play().catch(() => play(false)); } else video.pause();
    }
    if (!playing) { go(state.frame); return; }
    if (tellsPictures) awaited = video.requestVideoFrameCallback(onPicture);
    tick();
  }
  // A video's clock runs ahead of its picture: where the browser tells which one it shows, poses follow that.
  const tellsPictures = hasVideo && "requestVideoFrameCallback" in video, LATE = 0.1;
  let awaited = 0;
  function onPicture(_, picture) {
    // Before drawing, which takes its time: of a picture that comes meanwhile we want to hear.
    awaited = video.requestVideoFrameCallback(onPicture);
    // On the way to where playing begins, the picture is still the one before.
    if (!video.seeking) follow(picture.mediaTime);
  }
  function tick() {
    if (!playing) return;
    const rate = Number($("speed").value);
    const time = hasVideo ? video.currentTime : timeStart + rate * (performance.now() - clockStart) / 1000;
    // Of a picture right after another, browsers may tell nothing: poses must not wait for the next one.
    const surely = tellsPictures ? time - LATE * rate : time;
    if (!tellsPictures || frameAt(surely) > state.frame) follow(surely);
    if (playing) requestAnimationFrame(tick);
  }
  function follow(time) {
    const frame = frameAt(time);
    if (frame !== state.frame) { state.frame = frame; draw(); }
    if (frame >= numFrames - 1) play(false);
  }
  if (hasVideo) video.addEventListener("seeked", () => draw());
  if (hasVideo) video.addEventListener("loadeddata", () => draw());
  if (hasVideo) video.addEventListener("ended", () => { if (playing && video.ended) { state.frame = numFrames - 1; play(false); } });

  // ---------------------------------------------------------------- skeletons
  function opacity(score) {
    return score < FLOOR ? 0 : 0.25 + 0.75 * Math.min(1, (score - FLOOR) / (OPAQUE - FLOOR));
  }
  function skeleton(g, p, frame, scale, isChosen) {
    if (!isPresent(p, frame)) return;
    const [x0, y0, x1, y1] = box(p, frame), side = Math.max(x1 - x0, y1 - y0) * place;
    const line = Math.min(16, Math.max(1.6, 0.014 * side * scale));
    const spots = data.joints.map((_, joint) => at(p, frame, joint));
    g.lineCap = "round";
    for (const halo of [true, false]) {
      for (const [a, b] of data.limbs) {
        const one = spots[a], other = spots[b];
        if (!one || !other) continue;
        const alpha = Math.min(opacity(one.s), opacity(other.s));
        if (!alpha) continue;
        const sides = new Set([data.sides[a], data.sides[b]]);
        sides.delete("centre");
        g.globalAlpha = halo ? 0.6 * alpha : alpha;
        g.strokeStyle = halo ? "#101216" : COLOURS[sides.size === 1 ? [...sides][0] : "centre"];
        g.lineWidth = line * (halo ? 1.6 : 1);
        g.beginPath(); g.moveTo(one.x * scale, one.y * scale); g.lineTo(other.x * scale, other.y * scale); g.stroke();
      }
    }
    spots.forEach((spot, joint) => {
      if (!spot || !opacity(spot.s)) return;
      g.globalAlpha = opacity(spot.s);
      const chosen = isChosen && joint === state.joint;
      g.beginPath(); g.arc(spot.x * scale, spot.y * scale, line * (chosen ? 1.7 : 1.05), 0, 7);
      g.fillStyle = COLOURS[data.sides[joint]]; g.fill();
      g.lineWidth = chosen ? 2.5 : 1; g.strokeStyle = chosen ? "#ffffff" : "#101216"; g.stroke();
      if (p.filled[(frame - p.first) * numJoints + joint]) { g.setLineDash([2, 2]); g.strokeStyle = "#fff"; g.stroke(); g.setLineDash([]); }
    });
    g.globalAlpha = 1;
  }
  function backdrop(g, w, h) {
    if (hasVideo && video.readyState >= 2) g.drawImage(video, 0, 0, w, h);
    else { g.fillStyle = "#2a2f35"; g.fillRect(0, 0, w, h); }
  }
  function tile(sheet, joint) {
    const picture = sheet && image(sheet[0]);
    if (!picture) return null;
    const rows = Math.ceil(numJoints / data.sheetColumns);
    const w = picture.naturalWidth / data.sheetColumns, h = picture.naturalHeight / rows;
    return [picture, (joint % data.sheetColumns) * w, Math.floor(joint / data.sheetColumns) * h, w, h];
  }
  function heatOver(g, p, scale) {
    const sheet = data.sheets[`${p.id}/${data.frames[state.frame]}`], cut = tile(sheet, state.joint);
    if (!cut) return;
    const [a, b, c, d, e, f] = sheet[1];
    g.save();
    g.globalCompositeOperation = "screen";
    g.transform(a * scale, d * scale, b * scale, e * scale, c * scale, f * scale);
    g.drawImage(...cut, -0.5, -0.5, cut[3], cut[4]);
    g.restore();
  }
  function stage() {
    const ratio = height / width;
    let [g, w, h] = fit($("original"), ratio);
    backdrop(g, w, h);
    [g, w, h] = fit($("overlay"), ratio);
    const scale = w / width;
    backdrop(g, w, h);
    const chosen = people[state.person];
    if (chosen && $("show-heat").checked) heatOver(g, chosen, scale);
    people.forEach((p, n) => skeleton(g, p, state.frame, scale, n === state.person));
    if (people.length > 1 && chosen && isPresent(chosen, state.frame)) {
      const [x0, y0, x1, y1] = box(chosen, state.frame);
      g.strokeStyle = chosen.colour; g.lineWidth = 2;
      g.strokeRect(x0 * place * scale, y0 * place * scale, (x1 - x0) * place * scale, (y1 - y0) * place * scale);
    }
  }
  $("overlay").addEventListener("click", (event) => {
    const scale = width / $("overlay").clientWidth;
    const x = event.offsetX * scale, y = event.offsetY * scale;
    let best = [Infinity, 0, 0];
    people.forEach((p, n) => data.joints.forEach((_, joint) => {
      const spot = at(p, state.frame, joint);
      if (spot && spot.s >= FLOOR) {
        const far = Math.hypot(spot.x - x, spot.y - y);
        if (far < best[0]) best = [far, n, joint];
      }
    }));
    if (best[0] < 0.12 * Math.max(width, height)) choose(best[1], best[2]);
  });

  // ---------------------------------------------------------------- charts
  const xOf = (frame, w, left) => left + (w - left) * (frame + 0.5) / Math.max(1, numFrames);
  // Of a long video many frames share a pixel: they are drawn as one, or each step would take seconds.
  const sharing = (w, left) => Math.max(1, Math.floor(numFrames / Math.max(1, w - left)));
  function valuesOf(frames, value) {
    const found = [];
    for (let frame = frames[0]; frame < Math.min(frames[1], numFrames); frame++) {
      const v = value(frame);
      if (v !== null) found.push(v);
    }
    return found;
  }
  function playhead(g, w, h, left) {
    g.fillStyle = colour("flag");
    g.fillRect(Math.round(xOf(state.frame, w, left)), 0, 1.5, h);
  }
  const LEFT = 118, ROW = 16;
  function scores() {
    const p = people[state.person];
    $("scores-card").hidden = !p;
    if (!p) return;
    const [g, w, h] = fit($("scores"), numJoints * ROW + 2);
    const step = (w - LEFT) / numFrames, shared = sharing(w, LEFT);
    g.font = "12px system-ui, sans-serif"; g.textBaseline = "middle";
    for (let joint = 0; joint < numJoints; joint++) {
      const y = joint * ROW;
      g.fillStyle = joint === state.joint ? colour("ink") : colour("quiet");
      g.font = `${joint === state.joint ? "600 " : ""}12px system-ui, sans-serif`;
      g.fillText(words(data.joints[joint]), 0, y + ROW / 2);
      for (let frame = 0; frame < numFrames; frame += shared) {
        const found = valuesOf([frame, frame + shared], (one) => isPresent(p, one) ? p.scores[(one - p.first) * numJoints + joint] / 255 : null);
        if (!found.length) continue;
        const score = found.reduce((sum, one) => sum + one) / found.length;
        // From a dark violet over teal to a pale yellow: order survives any colour vision and grey.
        const hue = 275 - 215 * score, light = 22 + 62 * score;
        g.fillStyle = `hsl(${hue} ${70 - 10 * score}% ${light}%)`;
        g.fillRect(LEFT + frame * step, y + 1, shared * step + 0.6, ROW - 2);
      }
    }
    playhead(g, w, h, LEFT);
  }
  $("scores").addEventListener("click", (event) => {
    const joint = Math.min(numJoints - 1, Math.floor(event.offsetY / ROW));
    if (event.offsetX > LEFT) go(frameOf(event, $("scores"), LEFT));
    choose(state.person, joint);
  });
  function frameOf(event, canvas, left) {
    return Math.floor((event.offsetX - left) / (canvas.clientWidth - left) * numFrames);
  }
  // Half a line of text, so that the outermost marks are not cut.
  const EDGE = 9;
  const yOf = (value, low, high, h) => h - EDGE - (value - low) / (high - low) * (h - 2 * EDGE);
  function axes(g, w, h, left, low, high, marks, unit) {
    g.font = "12px system-ui, sans-serif"; g.textBaseline = "middle";
    for (const mark of marks) {
      const y = yOf(mark, low, high, h);
      g.strokeStyle = colour("line"); g.lineWidth = 1;
      g.beginPath(); g.moveTo(left, y); g.lineTo(w, y); g.stroke();
      g.fillStyle = colour("quiet"); g.fillText(`${mark}${unit}`, 0, y);
    }
  }
  function line(g, w, h, left, low, high, value, stroke, thick) {
    g.strokeStyle = stroke; g.lineWidth = thick; g.beginPath();
    let isOn = false;
    const shared = sharing(w, left);
    for (let frame = 0; frame < numFrames; frame += shared) {
      const found = valuesOf([frame, frame + shared], value);
      if (!found.length) { isOn = false; continue; }
      // Both ends of what it covers there: no peak is lost.
      for (const v of found.length > 1 ? [Math.min(...found), Math.max(...found)] : found) {
        const x = xOf(frame, w, left), y = yOf(v, low, high, h);
        if (isOn) g.lineTo(x, y); else g.moveTo(x, y);
        isOn = true;
      }
    }
    g.stroke();
  }
  function path() {
    const p = people[state.person];
    $("joint-card").hidden = !p;
    if (!p) return;
    $("joint-title").textContent = `Path of the ${words(data.joints[state.joint])}, person ${p.id}`;
    const [g, w, h] = fit($("path"), 190);
    const values = ["x", "y"].map((axis) => (frame) => at(p, frame, state.joint)?.[axis] ?? null);
    const known = values.flatMap((value) => valuesOf([0, numFrames], value));
    if (known.length) {
      const [lowest, highest] = known.reduce(([least, most], v) => [Math.min(least, v), Math.max(most, v)], [Infinity, -Infinity]);
      const low = lowest - 5, high = highest + 5, gap = Math.pow(10, Math.floor(Math.log10(high - low)));
      const marks = []; for (let m = Math.ceil(low / gap) * gap; m <= high; m += gap) marks.push(Math.round(m));
      axes(g, w, h, 50, low, high, marks.length > 1 ? marks : [Math.round(low + 5), Math.round(high - 5)], " px");
      values.forEach((value, axis) => line(g, w, h, 50, low, high, value, colour(axis ? "right" : "left"), 1.8));
    }
    playhead(g, w, h, 50);
    const sheet = data.sheets[`${p.id}/${data.frames[state.frame]}`], cut = tile(sheet, state.joint);
    const figure = $("heat").parentElement;
    figure.hidden = !Object.keys(data.sheets).length;
    if (figure.hidden) return;
    const [k, kw, kh] = fit($("heat"), 4 / 3);
    k.fillStyle = "#0c0e10"; k.fillRect(0, 0, kw, kh);
    if (cut) k.drawImage(...cut, 0, 0, kw, kh);
    const spot = at(p, state.frame, state.joint);
    $("heat-caption").textContent = sheet ? `Heatmap, score ${spot ? spot.s.toFixed(2) : "-"}` : "No heatmap kept for this frame";
  }
  $("path").addEventListener("click", (event) => go(frameOf(event, $("path"), 50)));
  function plausible() {
    const p = people[state.person];
    $("plausible-card").hidden = !p;
    if (!p) return;
    const isLength = state.series.startsWith("length"), [g, w, h] = fit($("plausible"), 200), left = 50;
    const names = isLength ? data.limbNames : data.angleNames, table = isLength ? p.lengths : p.angles;
    const unit = isLength ? share : 1, only = state.series.split(":")[1];
    const shown = names.map((_, n) => n).filter((n) => only === undefined || Number(only) === n);
    const hasNegative = !isLength && shown.some((n) => names[n] === "trunk");
    const low = isLength ? 0 : hasNegative ? -180 : 0, high = isLength ? 2 : 180;
    axes(g, w, h, left, low, high, isLength ? [0, 0.5, 1, 1.5, 2] : hasNegative ? [-180, -90, 0, 90, 180] : [0, 45, 90, 135, 180], isLength ? "" : "\u00b0");
    if (isLength) {
      const y = yOf(data.longest, low, high, h);
      g.fillStyle = colour("flag"); g.globalAlpha = 0.08; g.fillRect(left, 0, w - left, y); g.globalAlpha = 1;
    }
    for (const n of shown) {
      const side = names[n].includes("left") ? "left" : names[n].includes("right") ? "right" : "quiet";
      g.globalAlpha = shown.length > 1 ? 0.75 : 1;
      line(g, w, h, left, low, high, (frame) => {
        const v = table[(frame - p.first) * names.length + n] ?? missing;
        return v === missing ? null : Math.max(low, Math.min(high, v * unit));
      }, colour(side), shown.length > 1 ? 1.2 : 2);
    }
    g.globalAlpha = 1;
    playhead(g, w, h, left);
  }
  $("plausible").addEventListener("click", (event) => go(frameOf(event, $("plausible"), 50)));
  function ticks() {
    const [g, w, h] = fit($("ticks"), 10 / Math.max(1, $("ticks").clientWidth));
    const p = people[state.person];
    if (!p) return;
    g.fillStyle = colour("flag");
    for (const frame of new Set(p.flags.map((flag) => position.get(flag[0])))) g.fillRect(xOf(frame, w, 0) - 1, 0, 2, h);
  }
  function flags() {
    const list = $("flags"), p = people[state.person];
    list.replaceChildren();
    if (!p) return;
    const most = 40;
    for (const [frame, what, why] of p.flags.slice(0, most)) {
      const item = document.createElement("li"), button = document.createElement("button"), mark = document.createElement("b");
      mark.textContent = `Frame ${frame} `;
      button.type = "button";
      button.append(mark, `${words(what)}: ${why}`);
      button.addEventListener("click", () => { play(false); go(position.get(frame)); });
      item.append(button); list.append(item);
    }
    const note = document.createElement("li");
    note.textContent = p.flags.length > most ? `and ${p.flags.length - most} more` : p.flags.length ? "" : "Nothing looks odd.";
    list.append(note);
  }

  // ---------------------------------------------------------------- the theatre
  function theatre() {
    const p = people[state.person];
    const play_ = data.theatres.find((one) => p && one.id === p.id) || data.theatres[0];
    $("theatre-card").hidden = !play_;
    if (!play_) return;
    $("theatre-hint").textContent = `Frame ${play_.frame}, person ${play_.id}, ${words(data.joints[state.joint])}: what the network makes of pure noise in one step, and in several.`;
    const rows = $("stages"), wanted = Object.keys(play_.stages);
    if (rows.childElementCount !== wanted.length) {
      rows.replaceChildren(...wanted.map((steps) => {
        const row = document.createElement("div"), label = document.createElement("b");
        row.className = "row";
        label.textContent = steps === "1" ? "1 step" : `${steps} steps`;
        row.append(label, ...play_.stages[steps].map(() => document.createElement("canvas")));
        return row;
      }));
    }
    wanted.forEach((steps, r) => play_.stages[steps].forEach((uri, n) => {
      const [g, w, h] = fit(rows.children[r].children[n + 1], 4 / 3), cut = tile([uri], state.joint);
      g.fillStyle = "#0c0e10"; g.fillRect(0, 0, w, h);
      if (cut) { g.imageSmoothingEnabled = false; g.drawImage(...cut, 0, 0, w, h); }
    }));
    spread(play_);
  }
  function spread(one) {
    const [g, w] = fit($("spread"), 4 / 3), [a, , , d] = one.toImage;
    const points = int16(one.points), [mx, my] = one.means[state.joint], [major, minor, angle] = one.ellipses[state.joint];
    // As near as the ellipse can be seen, as far as the crop reaches; in picture pixels.
    const crop = Math.hypot(a, d) * one.shape[1], size = Math.min(crop, Math.max(crop / 6, 6 * major)), scale = w / size;
    g.save();
    g.scale(scale, scale); g.translate(size / 2 - mx, size * 2 / 3 - my);
    const here = position.get(one.frame);
    if (hasVideo && state.frame === here && video.readyState >= 2) g.drawImage(video, 0, 0, width, height);
    else { g.fillStyle = "#2a2f35"; g.fillRect(mx - size, my - size, 2 * size, 2 * size); }
    g.fillStyle = "#fff";
    for (let n = 0; n < one.seeds; n++) {
      const k = 2 * (state.joint * one.seeds + n);
      g.beginPath(); g.arc(points[k] * place, points[k + 1] * place, 1.6 / scale, 0, 7); g.fill();
    }
    g.strokeStyle = COLOURS.left; g.lineWidth = 2 / scale;
    g.beginPath(); g.ellipse(mx, my, Math.max(major, 1.5 / scale), Math.max(minor, 1.5 / scale), angle * Math.PI / 180, 0, 7); g.stroke();
    g.restore();
    $("spread-caption").textContent = `${one.seeds} samples of noise, one step each. The ellipse reaches two standard deviations, ${major.toFixed(1)} by ${minor.toFixed(1)} px, from its centre.` + (state.frame === here ? "" : ` Go to frame ${one.frame} to see them on the picture.`);
  }

  // ---------------------------------------------------------------- all together
  function draw() {
    $("scrubber").value = String(state.frame);
    const time = data.times[state.frame];
    $("clock").textContent = numFrames ? `frame ${data.frames[state.frame]} of ${data.frames[numFrames - 1]} \u00b7 ${(data.start + time).toFixed(2)} s` : "no frames";
    stage(); scores(); path(); plausible(); ticks();
    if (!playing) theatre();
  }
  function choose(person, joint) {
    const changed = person !== state.person;
    state.person = person; state.joint = joint;
    if (changed) { for (const [n, button] of [...$("people").children].entries()) button.setAttribute("aria-pressed", String(n === person)); flags(); }
    draw();
  }
  function lines(list, rows) {
    list.replaceChildren(...rows.flatMap(([name, text]) => {
      const term = document.createElement("dt"), value = document.createElement("dd");
      term.textContent = name; value.textContent = text;
      return [term, value];
    }));
  }
  const isWritten = (target) => target.matches("select, textarea, input:not([type=checkbox]):not([type=range])");
  function onKey(event) {
    const { key, target } = event;
    if (event.ctrlKey || event.altKey || event.metaKey || isWritten(target)) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (key === " ") { event.preventDefault(); if (!event.repeat) play(!playing); }
    // Space being taken, what has a tick is switched as buttons are pressed.
    if (key === "Enter" && target.type === "checkbox") target.click();
    if (step && target.type !== "range") { event.preventDefault(); play(false); go(state.frame + step); }
  }
  function start() {
    $("summary").textContent = `${counted(numFrames, "frame")}, ${counted(people.length, "person", "people")}` + (data.verdict.status === "ok" ? "" : " \u2013 the video is incomplete");
    $("verdict").textContent = data.verdict.summary;
    $("verdict").className = data.verdict.status;
    lines($("facts"), [...data.verdict.issues.map((issue) => [issue.code, issue.message]), ...data.facts]);
    lines($("model"), data.model);
    lines($("timings"), data.timings);
    $("timing-block").hidden = !data.timings.length;
    $("show-heat").parentElement.hidden = !Object.keys(data.sheets).length;
    $("overlay-caption").textContent = people.length ? "Poses: left side orange, right side blue. Click a person or a joint." : "Nobody was found.";
    $("scrubber").max = String(Math.max(0, numFrames - 1));
    // Who is looked into is in the picture that is shown first.
    state.person = Math.max(0, people.findIndex((p) => p.id === data.theatres[0]?.id));
    $("people").replaceChildren(...people.map((p, n) => {
      const button = document.createElement("button"), dot = document.createElement("i");
      dot.style.background = p.colour;
      button.type = "button"; button.setAttribute("aria-pressed", String(n === state.person));
      button.append(dot, `Person ${p.id}: ${counted(p.numFrames, "frame")}, score ${p.score.toFixed(2)}` + (p.flags.length ? `, ${counted(p.flags.length, "flag")}` : ""));
      button.addEventListener("click", () => choose(n, state.joint));
      return button;
    }));
    $("people").hidden = people.length < 1;
    const options = [["lengths", "all limbs"], ...data.limbNames.map((name, n) => [`length:${n}`, words(name)]), ["angles", "all angles"], ...data.angleNames.map((name, n) => [`angle:${n}`, words(name)])];
    $("series").replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    $("series").addEventListener("change", (event) => { state.series = event.target.value; draw(); });
    $("play").addEventListener("click", () => play(!playing));
    $("back").addEventListener("click", () => { play(false); go(state.frame - 1); });
    $("forth").addEventListener("click", () => { play(false); go(state.frame + 1); });
    $("speed").addEventListener("change", () => { if (playing) { play(false); play(true); } });
    $("show-heat").addEventListener("change", draw);
    $("scrubber").addEventListener("input", (event) => { if (playing) play(false); go(Number(event.target.value)); });
    document.addEventListener("keydown", onKey);
    // Else some browsers press the button that has the focus when Space is let go.
    document.addEventListener("keyup", (event) => { if (event.key === " " && !isWritten(event.target)) event.preventDefault(); });
    new ResizeObserver(() => draw()).observe(document.querySelector("main"));
    flags();
    const first = data.theatres.length ? position.get(data.theatres[0].frame) : 0;
    go(first ?? 0);
  }
  start();
})();
