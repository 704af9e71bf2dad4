// The same task by sharp: one decode to the largest picture, each size from the one before it. Prints JSON, as the others do.
const { readFileSync } = require("node:fs");
const sharp = require("sharp");

sharp.concurrency(1);
sharp.cache(false);

// MiB that were ever resident.
const peak = () => Number(/VmHWM:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))[1]) / 1024;

async function once(data, forms) {
  const sizes = {};
  let picture = null;
  for (const box of [...new Set(forms.map((form) => form.box))].sort((a, b) => b - a)) {
    const source = picture ? sharp(picture.data, { raw: picture.info }) : sharp(data, { failOn: "error" }).rotate();
    picture = await source.resize(box, box, { fit: "inside", withoutEnlargement: true }).raw().toBuffer({ resolveWithObject: true });
    for (const { name, format, quality } of forms.filter((form) => form.box === box)) {
      const options = { jpeg: { quality }, webp: { quality, effort: 2 }, avif: { quality, effort: 0 } }[format];
      sizes[name] = (await sharp(picture.data, { raw: picture.info }).toFormat(format, options).toBuffer()).length;
    }
  }
  return sizes;
}

async function main() {
  const [file, runs, forms] = [process.argv[2], Number(process.argv[3]), JSON.parse(process.argv[4])];
  const data = readFileSync(file);
  const idle = peak();
  const cpu = [], wall = [];
  let sizes = {};
  for (let run = 0; run < runs; run++) {
    const before = process.cpuUsage(), started = performance.now();
    sizes = await once(data, forms);
    const used = process.cpuUsage(before);
    cpu.push((used.user + used.system) / 1e6);
    wall.push((performance.now() - started) / 1e3);
  }
  console.log(JSON.stringify({ cpu_s: Math.min(...cpu), wall_s: Math.min(...wall), peak_mib: peak() - idle, sizes }));
}

main();
