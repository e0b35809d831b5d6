// Layers for the benches only: BN and Interp computed in the manner of the authors' fork, as measured against ours.
// Loaded beside libcaffe, they take the parameters of BN and Interp under the types ReferenceBN and ReferenceInterp.
#include <cmath>
#include <vector>

#include "caffe/blob.hpp"
#include "caffe/filler.hpp"
#include "caffe/layer.hpp"
#include "caffe/layer_factory.hpp"
#include "caffe/util/math_functions.hpp"

namespace caffe {

// BN under batch statistics: two matrix-vector products for every mean, matrix products with ones for every broadcast,
// a generic power for the square, the normalised input kept in a second buffer of the input's size.
template <typename Dtype>
class ReferenceBNLayer : public Layer<Dtype> {
 public:
  explicit ReferenceBNLayer(const LayerParameter& param) : Layer<Dtype>(param) {}

  void LayerSetUp(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override {
    const BNParameter& param = this->layer_param_.bn_param();
    this->blobs_.resize(4);
    for (auto& blob : this->blobs_) {
      blob.reset(new Blob<Dtype>(std::vector<int>{1, bottom[0]->shape(1), 1, 1}));
    }
    shared_ptr<Filler<Dtype>>(GetFiller<Dtype>(param.slope_filler()))->Fill(this->blobs_[0].get());
    shared_ptr<Filler<Dtype>>(GetFiller<Dtype>(param.bias_filler()))->Fill(this->blobs_[1].get());
    caffe_set(this->blobs_[3]->count(), Dtype(1), this->blobs_[3]->mutable_cpu_data());
  }

  void Reshape(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override {
    batch_ = bottom[0]->shape(0);
    channels_ = bottom[0]->shape(1);
    spatial_ = bottom[0]->count(2);
    top[0]->ReshapeLike(*bottom[0]);
    wide_.resize(bottom[0]->count());
    normalised_.resize(bottom[0]->count());
    runs_.resize(batch_ * channels_);
    mean_.resize(channels_);
    inv_std_.resize(channels_);
    batch_ones_.assign(batch_, Dtype(1));
    spatial_ones_.assign(spatial_, Dtype(1));
  }

  const char* type() const override { return "ReferenceBN"; }
  int ExactNumBottomBlobs() const override { return 1; }
  int ExactNumTopBlobs() const override { return 1; }

 protected:
  void Forward_cpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override {
    const int count = bottom[0]->count();
    const BNParameter& param = this->layer_param_.bn_param();
    const Dtype momentum = param.momentum();
    Dtype* const y = top[0]->mutable_cpu_data();
    Sum(bottom[0]->cpu_data(), Dtype(1) / (batch_ * spatial_), Dtype(0), mean_.data());
    Broadcast(mean_.data());
    caffe_sub(count, bottom[0]->cpu_data(), wide_.data(), y);
    caffe_powx(count, y, Dtype(2), wide_.data());
    Sum(wide_.data(), Dtype(1) / (batch_ * spatial_), Dtype(0), inv_std_.data());
    caffe_add_scalar(channels_, Dtype(param.eps()), inv_std_.data());
    caffe_powx(channels_, inv_std_.data(), Dtype(-0.5), inv_std_.data());
    Broadcast(inv_std_.data());
    caffe_mul(count, y, wide_.data(), y);
    caffe_copy(count, y, normalised_.data());
    Broadcast(this->blobs_[0]->cpu_data());
    caffe_mul(count, y, wide_.data(), y);
    Broadcast(this->blobs_[1]->cpu_data());
    caffe_add(count, y, wide_.data(), y);
    caffe_cpu_axpby(channels_, Dtype(1) - momentum, mean_.data(), momentum, this->blobs_[2]->mutable_cpu_data());
    caffe_cpu_axpby(channels_, Dtype(1) - momentum, inv_std_.data(), momentum, this->blobs_[3]->mutable_cpu_data());
  }

  void Backward_cpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                    const std::vector<Blob<Dtype>*>& bottom) override {
    const int count = bottom[0]->count();
    const Dtype* const dy = top[0]->cpu_diff();
    Dtype* const dx = bottom[0]->mutable_cpu_diff();
    const Dtype part = Dtype(1) / (batch_ * spatial_);
    std::vector<Dtype> mean_dy(channels_), mean_product(channels_);
    caffe_mul(count, normalised_.data(), dy, wide_.data());
    Sum(wide_.data(), Dtype(1), Dtype(1), this->blobs_[0]->mutable_cpu_diff());
    Sum(dy, Dtype(1), Dtype(1), this->blobs_[1]->mutable_cpu_diff());
    Broadcast(this->blobs_[0]->cpu_data());
    caffe_mul(count, dy, wide_.data(), dx);
    caffe_mul(count, normalised_.data(), dx, wide_.data());
    Sum(wide_.data(), part, Dtype(0), mean_product.data());
    Sum(dx, part, Dtype(0), mean_dy.data());
    Broadcast(mean_product.data());
    caffe_mul(count, wide_.data(), normalised_.data(), wide_.data());
    caffe_sub(count, dx, wide_.data(), dx);
    Broadcast(mean_dy.data());
    caffe_sub(count, dx, wide_.data(), dx);
    Broadcast(inv_std_.data());
    caffe_mul(count, dx, wide_.data(), dx);
  }

 private:
  // sums[c] = scale * (sum of channel c of (N, C, ...)) + keep * sums[c]
  void Sum(const Dtype* values, Dtype scale, Dtype keep, Dtype* sums) {
    caffe_cpu_gemv<Dtype>(CblasNoTrans, batch_ * channels_, spatial_, scale, values, spatial_ones_.data(), Dtype(0),
                          runs_.data());
    caffe_cpu_gemv<Dtype>(CblasTrans, batch_, channels_, Dtype(1), runs_.data(), batch_ones_.data(), keep, sums);
  }

  // One value for each channel, repeated over wide_.
  void Broadcast(const Dtype* values) {
    caffe_cpu_gemm<Dtype>(CblasNoTrans, CblasNoTrans, batch_, channels_, 1, Dtype(1), batch_ones_.data(), values,
                          Dtype(0), runs_.data());
    caffe_cpu_gemm<Dtype>(CblasNoTrans, CblasNoTrans, batch_ * channels_, spatial_, 1, Dtype(1), runs_.data(),
                          spatial_ones_.data(), Dtype(0), wide_.data());
  }

  int batch_ = 0, channels_ = 0, spatial_ = 0;
  std::vector<Dtype> wide_, normalised_;
  std::vector<Dtype> runs_, mean_, inv_std_, batch_ones_, spatial_ones_;
};

// Interp of a whole image to the size of interp_param, output pixel by output pixel: position and weights are worked
// out for each, and all planes are then read and written there.
template <typename Dtype>
class ReferenceInterpLayer : public Layer<Dtype> {
 public:
  explicit ReferenceInterpLayer(const LayerParameter& param) : Layer<Dtype>(param) {}

  void Reshape(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override {
    const InterpParameter& param = this->layer_param_.interp_param();
    planes_ = bottom[0]->shape(0) * bottom[0]->shape(1);
    in_height_ = bottom[0]->shape(2);
    in_width_ = bottom[0]->shape(3);
    out_height_ = param.height();
    out_width_ = param.width();
    top[0]->Reshape(bottom[0]->shape(0), bottom[0]->shape(1), out_height_, out_width_);
  }

  const char* type() const override { return "ReferenceInterp"; }
  int ExactNumBottomBlobs() const override { return 1; }
  int ExactNumTopBlobs() const override { return 1; }

 protected:
  void Forward_cpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) override {
    const Dtype* const x = bottom[0]->cpu_data();
    Dtype* const y = top[0]->mutable_cpu_data();
    ForPixels([&](int from, int right, int down, int to, Dtype row, Dtype column) {
      for (int p = 0; p < planes_; ++p) {
        const Dtype* const near = x + p * in_height_ * in_width_ + from;
        y[p * out_height_ * out_width_ + to] =
            (1 - row) * ((1 - column) * near[0] + column * near[right]) +
            row * ((1 - column) * near[down] + column * near[down + right]);
      }
    });
  }

  void Backward_cpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                    const std::vector<Blob<Dtype>*>& bottom) override {
    const Dtype* const dy = top[0]->cpu_diff();
    Dtype* const dx = bottom[0]->mutable_cpu_diff();
    caffe_set(bottom[0]->count(), Dtype(0), dx);
    ForPixels([&](int from, int right, int down, int to, Dtype row, Dtype column) {
      for (int p = 0; p < planes_; ++p) {
        Dtype* const near = dx + p * in_height_ * in_width_ + from;
        const Dtype diff = dy[p * out_height_ * out_width_ + to];
        near[0] += (1 - row) * (1 - column) * diff;
        near[right] += (1 - row) * column * diff;
        near[down] += row * (1 - column) * diff;
        near[down + right] += row * column * diff;
      }
    });
  }

 private:
  template <typename Pixel>
  void ForPixels(const Pixel& pixel) {
    for (int i = 0; i < out_height_; ++i) {
      for (int j = 0; j < out_width_; ++j) {
        const float vertical = out_height_ > 1 ? static_cast<float>(in_height_ - 1) / (out_height_ - 1) * i : 0;
        const float horizontal = out_width_ > 1 ? static_cast<float>(in_width_ - 1) / (out_width_ - 1) * j : 0;
        const int top = static_cast<int>(vertical);
        const int left = static_cast<int>(horizontal);
        pixel(top * in_width_ + left, left < in_width_ - 1 ? 1 : 0, top < in_height_ - 1 ? in_width_ : 0,
              i * out_width_ + j, vertical - top, horizontal - left);
      }
    }
  }

  int planes_ = 0, in_height_ = 0, in_width_ = 0, out_height_ = 0, out_width_ = 0;
};

INSTANTIATE_CLASS(ReferenceBNLayer);
INSTANTIATE_CLASS(ReferenceInterpLayer);
REGISTER_LAYER_CLASS(ReferenceBN);
REGISTER_LAYER_CLASS(ReferenceInterp);

}  // namespace caffe
