// Functions for vector types without special instructions; included in their namespaces.

// Splits x, clamped to at least -126, into the nearest integer and the rest, in [-1/2, 1/2].
INLINE Vector split(Vector x, Vector& whole) {
  x = max(-126.0f, x);
  whole = round(x);
  return sub(x, whole);
}

INLINE Vector reciprocal(Vector x) { return div(fill(1.0f), x); }
