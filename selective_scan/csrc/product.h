// Products of small matrices that stay in the cache, on one thread.
#pragma once

#include "vectors.h"

namespace mim {

// A matrix of numbers read one at a time: element (i, k) is from[i * row + k * column].
template <class T>
struct Scalars {
  const T* from;
  int64_t row, column;
};

// A matrix whose rows are vectors; `row` of them from one to the next.
template <class T>
struct Rows {
  Vector<T>* from;
  int64_t row;
};

template <class T, int64_t R, int64_t V>
MIM_INLINE void add_tile(int64_t depth, Scalars<T> a, Rows<T> b, Rows<T> c) {
  Vector<T> sum[R][V];
#pragma GCC unroll 8
  for (int64_t i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int64_t j = 0; j < V; ++j) sum[i][j] = c.from[i * c.row + j];
  for (int64_t k = 0; k < depth; ++k) {
    Vector<T> right[V];
#pragma GCC unroll 8
    for (int64_t j = 0; j < V; ++j) right[j] = b.from[k * b.row + j];
#pragma GCC unroll 8
    for (int64_t i = 0; i < R; ++i) {
      const T left = a.from[i * a.row + k * a.column];
#pragma GCC unroll 8
      for (int64_t j = 0; j < V; ++j) sum[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 8
  for (int64_t i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int64_t j = 0; j < V; ++j) c.from[i * c.row + j] = sum[i][j];
}

template <class T, int64_t V>
void add_columns(int64_t rows, int64_t depth, Scalars<T> a, Rows<T> b, Rows<T> c) {
  constexpr int64_t R = 12 / V > 6 ? 6 : 12 / V;  // twelve sums, and what they are made of, fit into 16 registers
  int64_t i = 0;
  for (; i + R <= rows; i += R)
    add_tile<T, R, V>(depth, {a.from + i * a.row, a.row, a.column}, b, {c.from + i * c.row, c.row});
  for (; i < rows; ++i) add_tile<T, 1, V>(depth, {a.from + i * a.row, a.row, a.column}, b, {c.from + i * c.row, c.row});
}

// c += a b, with a (rows, depth), b (depth, columns) and c (rows, columns), the columns in vectors.
template <class T>
void add_product(int64_t rows, int64_t depth, int64_t columns, Scalars<T> a, Rows<T> b, Rows<T> c) {
  int64_t j = 0;
  for (; j + 3 <= columns && columns - j != 4; j += 3)
    add_columns<T, 3>(rows, depth, a, {b.from + j, b.row}, {c.from + j, c.row});
  for (; j + 2 <= columns; j += 2) add_columns<T, 2>(rows, depth, a, {b.from + j, b.row}, {c.from + j, c.row});
  if (j < columns) add_columns<T, 1>(rows, depth, a, {b.from + j, b.row}, {c.from + j, c.row});
}

}  // namespace mim
