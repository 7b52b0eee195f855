// What vectors without an instruction of their own for it do; included inside their namespaces.

// The whole number next to x, at least -126, and the rest of it, in [-1/2, 1/2].
INLINE Vector split(Vector x, Vector& whole) {
  x = max(-126.0f, x);
  whole = round(x);
  return sub(x, whole);
}

INLINE Vector reciprocal(Vector x) { return div(fill(1.0f), x); }
