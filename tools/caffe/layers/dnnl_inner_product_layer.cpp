#include <algorithm>
#include <vector>

#include "caffe/layers/inner_product_layer.hpp"
#include "dnnl_product.hpp"
#include "engine.hpp"
#include "parallel.hpp"

namespace caffe {

namespace {

using Size = std::ptrdiff_t;

// Calls range(begin, end) for shares of the columns, which begin at multiples of a cache line.
template <typename Range>
void OverColumns(Size columns, Size work, const Range& range) {
  constexpr Size kUnit = 16, kWorthThreads = 1 << 18;
  const Size units = (columns + kUnit - 1) / kUnit;
  const auto run = [&](Size begin, Size end) {
    const prototxt_gen::OneThread one_thread;
    range(begin * kUnit, std::min(end * kUnit, columns));
  };
  if (work < kWorthThreads) {
    run(0, units);
  } else {
    prototxt_gen::parallel_ranges(units, run);
  }
}

// Caffe's inner product of x (M, K) and weights (N, K), with the CPU's work on floats done by oneDNN: with few images
// it is several times as fast, and OpenBLAS's threads, which spin after each product, are not woken.
template <typename Dtype>
class OwnInnerProductLayer : public InnerProductLayer<Dtype> {
 public:
  using InnerProductLayer<Dtype>::InnerProductLayer;

 protected:
  void Forward_cpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override {
    const Size m = this->M_, n = this->N_, k = this->K_;
    const Dtype* const x = bottom[0]->cpu_data();
    const Dtype* const weights = this->blobs_[0]->cpu_data();
    const Dtype* const bias = this->bias_term_ ? this->blobs_[1]->cpu_data() : nullptr;
    Dtype* const y = top[0]->mutable_cpu_data();
    OverColumns(n, m * n * k, [&](Size begin, Size end) {
      for (Size row = 0; bias && row < m; ++row) {
        std::copy(bias + begin, bias + end, y + row * n + begin);
      }
      prototxt_gen::sgemm(false, true, m, end - begin, k, x, k, weights + begin * k, k, bias ? 1.0f : 0.0f, y + begin,
                          n);
    });
  }

  void Backward_cpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                    const std::vector<Blob<Dtype>*>& bottom) override {
    const Size m = this->M_, n = this->N_, k = this->K_;
    const Dtype* const dy = top[0]->cpu_diff();
    if (this->param_propagate_down_[0]) {
      const Dtype* const x = bottom[0]->cpu_data();
      Dtype* const dweights = this->blobs_[0]->mutable_cpu_diff();
      OverColumns(n, m * n * k, [&](Size begin, Size end) {
        prototxt_gen::sgemm(true, false, end - begin, k, m, dy + begin, n, x, k, 1.0f, dweights + begin * k, k);
      });
    }
    if (this->bias_term_ && this->param_propagate_down_[1]) {
      Dtype* const dbias = this->blobs_[1]->mutable_cpu_diff();
      for (Size row = 0; row < m; ++row) {
        for (Size i = 0; i < n; ++i) {
          dbias[i] += dy[row * n + i];
        }
      }
    }
    if (propagate_down[0]) {
      const Dtype* const weights = this->blobs_[0]->cpu_data();
      Dtype* const dx = bottom[0]->mutable_cpu_diff();
      OverColumns(k, m * n * k, [&](Size begin, Size end) {
        prototxt_gen::sgemm(false, false, m, end - begin, n, dy, n, weights + begin, k, 0.0f, dx + begin, k);
      });
    }
  }
};

bool Fits(const LayerParameter& param) { return !param.inner_product_param().transpose(); }

}  // namespace

PROTOTXT_GEN_REPLACE_LAYER(InnerProduct, OwnInnerProductLayer, float, Fits)

}  // namespace caffe
