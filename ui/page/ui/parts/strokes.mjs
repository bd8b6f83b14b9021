/** Digits as lines of a pen, for visitors without a pointer: points in a square of 100 × 100. */

const arc = (x, y, width, height, from, to) =>
  Array.from({ length: 17 }, (_, step) => {
    const angle = ((from + ((to - from) * step) / 16) * Math.PI) / 180;
    return [x + width * Math.cos(angle), y + height * Math.sin(angle)];
  });

/** For each digit its lines, each a list of points [x, y]. Angles grow clockwise, as y grows downwards. */
export const STROKES = [
  [arc(50, 50, 22, 32, -90, 270)],
  [[[42, 28], [54, 18], [52, 82]]],
  [[...arc(50, 36, 20, 18, 190, 400), [32, 80], [72, 80]]],
  [[...arc(48, 34, 18, 16, 200, 450), ...arc(48, 66, 20, 17, -90, 160)]],
  [[[42, 18], [30, 54], [72, 54]], [[62, 20], [60, 84]]],
  [[[70, 20], [38, 20], [35, 46], ...arc(47, 62, 21, 19, -110, 150)]],
  [[[60, 16], [40, 40], ...arc(50, 64, 18, 18, 200, 560)]],
  [[[28, 22], [70, 22], [46, 84]]],
  [[...arc(50, 33, 17, 16, 90, 450), ...arc(50, 66, 19, 17, -90, 270)]],
  [[...arc(48, 36, 18, 18, 0, 360), [66, 36], [58, 84]]],
];
