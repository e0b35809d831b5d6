#include "interp_layer.hpp"

namespace caffe {

template <typename Dtype>
void InterpLayer<Dtype>::LayerSetUp(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) {
  const InterpParameter& param = this->layer_param_.interp_param();
  const std::string& name = this->layer_param_.name();
  CHECK_NE(bottom[0], top[0]) << "layer '" << name << "': Interp cannot work in place";
  const bool size_given = param.has_height() || param.has_width();
  const int forms = (bottom.size() == 2) + param.has_zoom_factor() + param.has_shrink_factor() + size_given;
  CHECK_EQ(forms, 1) << "layer '" << name << "': Interp takes its output size from exactly one of a second bottom, "
                     << "zoom_factor, shrink_factor, or height and width";
  if (size_given) {
    CHECK(param.height() > 0 && param.width() > 0)
        << "layer '" << name << "': interp_param needs both height and width, and positive";
  }
  CHECK_GE(param.zoom_factor(), 1) << "layer '" << name << "': interp_param.zoom_factor must be at least 1";
  CHECK_GE(param.shrink_factor(), 1) << "layer '" << name << "': interp_param.shrink_factor must be at least 1";
  CHECK(param.pad_beg() <= 0 && param.pad_end() <= 0)
      << "layer '" << name << "': interp_param.pad_beg and pad_end crop, so they must be zero or negative";
}

template <typename Dtype>
void InterpLayer<Dtype>::Reshape(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) {
  const InterpParameter& param = this->layer_param_.interp_param();
  const std::string& name = this->layer_param_.name();
  for (const Blob<Dtype>* blob : bottom) {
    CHECK_EQ(blob->num_axes(), 4) << "layer '" << name << "': Interp needs bottoms of shape (N, C, H, W), not "
                                  << blob->shape_string();
  }
  const int batch = bottom[0]->shape(0);
  const int channels = bottom[0]->shape(1);
  shape_.planes = static_cast<std::ptrdiff_t>(batch) * channels;
  shape_.in_height = bottom[0]->shape(2);
  shape_.in_width = bottom[0]->shape(3);
  shape_.top = shape_.left = -param.pad_beg();
  shape_.height = shape_.in_height + param.pad_beg() + param.pad_end();
  shape_.width = shape_.in_width + param.pad_beg() + param.pad_end();
  CHECK(shape_.height > 0 && shape_.width > 0)
      << "layer '" << name << "': pad_beg " << param.pad_beg() << " and pad_end " << param.pad_end()
      << " leave nothing of an input of " << shape_.in_height << " x " << shape_.in_width;
  if (bottom.size() == 2) {
    shape_.out_height = bottom[1]->shape(2);
    shape_.out_width = bottom[1]->shape(3);
    CHECK(shape_.out_height > 0 && shape_.out_width > 0)
        << "layer '" << name << "': the second bottom " << bottom[1]->shape_string() << " gives an empty output";
  } else if (param.has_zoom_factor()) {
    shape_.out_height = prototxt_gen::interp_zoomed(shape_.height, param.zoom_factor());
    shape_.out_width = prototxt_gen::interp_zoomed(shape_.width, param.zoom_factor());
  } else if (param.has_shrink_factor()) {
    shape_.out_height = prototxt_gen::interp_shrunk(shape_.height, param.shrink_factor());
    shape_.out_width = prototxt_gen::interp_shrunk(shape_.width, param.shrink_factor());
  } else {
    shape_.out_height = param.height();
    shape_.out_width = param.width();
  }
  top[0]->Reshape(batch, channels, shape_.out_height, shape_.out_width);
  rows_.resize(shape_.out_height);
  columns_.resize(shape_.out_width);
  prototxt_gen::interp_taps(shape_.height, shape_.out_height, rows_.data());
  prototxt_gen::interp_taps(shape_.width, shape_.out_width, columns_.data());
}

template <typename Dtype>
void InterpLayer<Dtype>::Forward_cpu(const std::vector<Blob<Dtype>*>& bottom, const std::vector<Blob<Dtype>*>& top) {
  prototxt_gen::interp_forward(shape_, rows_.data(), columns_.data(), bottom[0]->cpu_data(),
                               top[0]->mutable_cpu_data());
}

template <typename Dtype>
void InterpLayer<Dtype>::Backward_cpu(const std::vector<Blob<Dtype>*>& top, const std::vector<bool>& propagate_down,
                                      const std::vector<Blob<Dtype>*>& bottom) {
  if (propagate_down[0]) {
    prototxt_gen::interp_backward(shape_, rows_.data(), columns_.data(), top[0]->cpu_diff(),
                                  bottom[0]->mutable_cpu_diff());
  }
}

INSTANTIATE_CLASS(InterpLayer);
REGISTER_LAYER_CLASS(Interp);

}  // namespace caffe
