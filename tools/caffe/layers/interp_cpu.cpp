// Interp's forward pass.

#include "interp_cpu.hpp"

#include <utility>
#include <vector>

#include "interp_planes_cpu.hpp"
#include "lanes_cpu.hpp"

namespace prototxt_gen {

namespace {

// The taps of all columns, one array for each of their parts.
template <typename T>
struct Columns {
  std::vector<int> low, high;
  std::vector<T> low_weight, high_weight;

  Columns(const InterpTap<T>* taps, int count) : low(count), high(count), low_weight(count), high_weight(count) {
    for (int j = 0; j < count; ++j) {
      low[j] = taps[j].low;
      high[j] = taps[j].high;
      low_weight[j] = taps[j].low_weight;
      high_weight[j] = taps[j].high_weight;
    }
  }
};

// Eight neighbouring columns, whose neighbours on either side lie within eight values of the input's row.
template <typename T>
struct Chunk {
  int begin;
  int low_begin, high_begin;
  typename Lanes<T>::Picks low, high;
  typename Lanes<T>::Values low_weight, high_weight;
};

// Returns chunks that cover a row, the last of which may overlap the one before; none where a row is too short or
// eight columns are too far apart, as where planes shrink.
template <typename T>
std::vector<Chunk<T>> chunks_of(const Columns<T>& columns, int width) {
  const int count = static_cast<int>(columns.low.size());
  std::vector<Chunk<T>> made;
  for (int next = 0; next < count; next += kEight) {
    Chunk<T> chunk;
    chunk.begin = std::min(next, count - kEight);
    if (chunk.begin < 0) {
      return {};
    }
    const int last = std::max(0, width - kEight);
    chunk.low_begin = std::min(columns.low[chunk.begin], last);
    chunk.high_begin = std::min(columns.high[chunk.begin], last);
    for (int lane = 0; lane < kEight; ++lane) {
      const int j = chunk.begin + lane;
      chunk.low[lane] = columns.low[j] - chunk.low_begin;
      chunk.high[lane] = columns.high[j] - chunk.high_begin;
      chunk.low_weight[lane] = columns.low_weight[j];
      chunk.high_weight[lane] = columns.high_weight[j];
      if (chunk.low[lane] >= kEight || chunk.high[lane] >= kEight) {
        return {};
      }
    }
    made.push_back(chunk);
  }
  return made;
}

// Goes through the rows of a plane's output. Two rows of the input are held in `low` and `high`, resized along the
// columns: fill(row, out) makes one, for all rows of the output between it and its neighbours, and mix(low, high, row's
// tap, i) makes row i of the output.
template <typename T, typename Held, typename Fill, typename Mix>
PROTOTXT_GEN_INLINE void for_rows(const InterpShape& shape, const InterpTap<T>* rows, Held* low, Held* high,
                                  const Fill& fill, const Mix& mix) {
  int low_row = -1, high_row = -1;
  for (int i = 0; i < shape.out_height; ++i) {
    const InterpTap<T>& row = rows[i];
    if (row.low == high_row) {
      std::swap(low, high);
      std::swap(low_row, high_row);
    }
    if (low_row != row.low) {
      fill(low_row = row.low, low);
    }
    if (high_row != row.high) {
      fill(high_row = row.high, high);
    }
    mix(low, high, row, i);
  }
}

// ---- By chunks -----------------------------------------------------------------------------------------------------

// A held row has eight values for each chunk, so that none is written twice: a processor waits where it reads at once
// what two of its stores made.
template <typename T>
PROTOTXT_GEN_INLINE void resize_chunk(const T* row, const Chunk<T>& chunk, Eight<T>* out) {
  typename Lanes<T>::Values low, high;
  load(row + chunk.low_begin, &low);
  load(row + chunk.high_begin, &high);
  pick<T>(low, chunk.low, &low);
  pick<T>(high, chunk.high, &high);
  out->values = chunk.low_weight * low + chunk.high_weight * high;
}

// Resizes planes one after the other: x and y are the first one's, `end` is where the memory of x ends. `held` has room
// for two rows of chunks, and `copy` for a row of x and seven values more.
template <typename T>
PROTOTXT_GEN_CLONES void resize_planes(const InterpShape& shape, const InterpTap<T>* rows, const Chunk<T>* chunks,
                                       int count, std::ptrdiff_t planes, const T* x, const T* end, T* y,
                                       Eight<T>* held, T* copy) {
  for (std::ptrdiff_t p = 0; p < planes; ++p) {
    const T* const window = x + p * interp_in_values(shape) + interp_window(shape);
    T* const plane = y + p * interp_out_values(shape);
    const auto fill = [&](int row, Eight<T>* out) PROTOTXT_GEN_INLINE_LAMBDA {
      const T* from = window + static_cast<std::ptrdiff_t>(row) * shape.in_width;
      if (end - from < kEight) {
        std::copy_n(from, shape.width, copy);
        from = copy;
      }
      for (int k = 0; k < count; ++k) {
        resize_chunk(from, chunks[k], out + k);
      }
    };
    const auto mix = [&](const Eight<T>* low, const Eight<T>* high, const InterpTap<T>& row, int i)
        PROTOTXT_GEN_INLINE_LAMBDA {
      T* const out = plane + static_cast<std::ptrdiff_t>(i) * shape.out_width;
      for (int k = 0; k < count; ++k) {
        store<T>(row.low_weight * low[k].values + row.high_weight * high[k].values, out + chunks[k].begin);
      }
    };
    for_rows(shape, rows, held, held + count, fill, mix);
  }
}

// ---- Column by column ----------------------------------------------------------------------------------------------

template <typename T>
PROTOTXT_GEN_CLONES void resize_row(const T* x, int count, const int* low, const int* high, const T* low_weight,
                                    const T* high_weight, T* out) {
  write_values(count, [=](std::ptrdiff_t j) PROTOTXT_GEN_INLINE_LAMBDA {
    return interp_between(x[low[j]], x[high[j]], low_weight[j], high_weight[j]);
  }, out);
}

template <typename T>
PROTOTXT_GEN_CLONES void mix_rows(const T* low, const T* high, int count, T low_weight, T high_weight, T* out) {
  write_values(count, [=](std::ptrdiff_t j) PROTOTXT_GEN_INLINE_LAMBDA {
    return interp_between(low[j], high[j], low_weight, high_weight);
  }, out);
}

template <typename T>
void resize_plane(const InterpShape& shape, const InterpTap<T>* rows, const Columns<T>& columns, const T* x, T* y,
                  T* held) {
  const auto fill = [&](int row, T* out) {
    resize_row(x + static_cast<std::ptrdiff_t>(row) * shape.in_width, shape.out_width, columns.low.data(),
               columns.high.data(), columns.low_weight.data(), columns.high_weight.data(), out);
  };
  const auto mix = [&](const T* low, const T* high, const InterpTap<T>& row, int i) {
    mix_rows(low, high, shape.out_width, row.low_weight, row.high_weight,
             y + static_cast<std::ptrdiff_t>(i) * shape.out_width);
  };
  for_rows(shape, rows, held, held + shape.out_width, fill, mix);
}

}  // namespace

template <typename T>
void interp_taps(int n_in, int n_out, InterpTap<T>* taps) {
  const float step = interp_step(n_in, n_out);
  for (int i = 0; i < n_out; ++i) {
    taps[i] = interp_tap<T>(i, step, n_in);
  }
}

template <typename T>
void interp_forward(const InterpShape& shape, const InterpTap<T>* rows, const InterpTap<T>* columns, const T* x, T* y) {
  const std::ptrdiff_t in = interp_in_values(shape), out = interp_out_values(shape);
  if (interp_is_copy(shape)) {
    for_planes(shape, shape.planes, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
      for (std::ptrdiff_t p = begin; p < end; ++p) {
        copy_rows(shape.height, shape.width, x + p * in + interp_window(shape), shape.in_width, y + p * out,
                  shape.out_width);
      }
    });
    return;
  }
  const Columns<T> taps(columns, shape.out_width);
  const std::vector<Chunk<T>> chunks = chunks_of(taps, shape.width);
  for_planes(shape, shape.planes, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
    if (!chunks.empty()) {
      const int count = static_cast<int>(chunks.size());
      std::vector<Eight<T>> held(2 * chunks.size());
      std::vector<T> copy(shape.width + kEight);
      resize_planes(shape, rows, chunks.data(), count, end - begin, x + begin * in, x + shape.planes * in,
                    y + begin * out, held.data(), copy.data());
      return;
    }
    std::vector<T> held(2 * static_cast<std::size_t>(shape.out_width));
    for (std::ptrdiff_t p = begin; p < end; ++p) {
      resize_plane(shape, rows, taps, x + p * in + interp_window(shape), y + p * out, held.data());
    }
  });
}

#define PROTOTXT_GEN_INSTANTIATE(T)                      \
  template void interp_taps<T>(int, int, InterpTap<T>*); \
  template void interp_forward<T>(const InterpShape&, const InterpTap<T>*, const InterpTap<T>*, const T*, T*)

PROTOTXT_GEN_INSTANTIATE(float);
PROTOTXT_GEN_INSTANTIATE(double);

}  // namespace prototxt_gen
