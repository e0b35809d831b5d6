#include "augmented_data_layer.hpp"

#include <algorithm>
#include <exception>
#include <stdexcept>
#include <thread>

#include "caffe/util/io.hpp"

namespace caffe {

namespace {

// After so many in a row the source is taken to be unreadable.
constexpr std::uint64_t kTries = 1000;

}  // namespace

template <typename Dtype>
void AugmentedDataLayer<Dtype>::LayerSetUp(const std::vector<Blob<Dtype>*>& bottom,
                                           const std::vector<Blob<Dtype>*>& top) {
  param_ = this->layer_param_.augmented_data_param();
  CheckParameters();
  train_ = this->phase_ == TRAIN;
  changes_colour_ = train_ && (param_.brightness() > 0 || param_.contrast() > 0 || param_.saturation() > 0 ||
                               param_.pca_std() > 0);
  // Only the root solver tests.
  solvers_ = train_ ? Caffe::solver_count() : 1;
  rank_ = train_ ? Caffe::solver_rank() : 0;
  OpenSource();
  ReadMean();

  const int batch_size = param_.batch_size();
  const int channels = param_.channels();
  const int size = param_.crop_size();
  const std::vector<int> label_shape(1, batch_size);
  top[0]->Reshape(batch_size, channels, size, size);
  if (top.size() > 1) {
    top[1]->Reshape(label_shape);
  }
  for (unsigned i = 0; i < param_.prefetch(); ++i) {
    batches_.emplace_back(new Batch);
    Batch* const batch = batches_.back().get();
    batch->data.Reshape(batch_size, channels, size, size);
    batch->label.Reshape(label_shape);
    batch->values = batch->data.mutable_cpu_data();
    batch->labels = batch->label.mutable_cpu_data();
  }
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  const int threads = param_.threads() > 0 ? static_cast<int>(param_.threads())
                                           : std::max(1, cores / Caffe::solver_count());
  for (int i = 0; i < threads; ++i) {
    workers_.emplace_back(new Worker(channels));
  }
  LOG_IF(INFO, Caffe::root_solver())
      << "layer '" << this->layer_param_.name() << "': " << source_->size() << " images of '" << param_.source()
      << "', " << source_->index_bytes() << " bytes of index, " << threads << " threads";
  queue_.reset(new prototxt_gen::BatchQueue(
      threads, static_cast<int>(param_.prefetch()), batch_size,
      [this](int thread, std::uint64_t batch, int item) { MakeItem(workers_[thread].get(), batch, item); }));
}

template <typename Dtype>
void AugmentedDataLayer<Dtype>::CheckParameters() const {
  const std::string start = "layer '" + this->layer_param_.name() + "': augmented_data_param";
  CHECK(!param_.source().empty()) << start << " needs a source";
  CHECK_GT(param_.batch_size(), 0) << start << " needs a batch_size";
  CHECK_GT(param_.crop_size(), 0) << start << " needs a crop_size";
  CHECK(param_.channels() == 1 || param_.channels() == 3) << start << ".channels must be 1 or 3";
  CHECK_GT(param_.prefetch(), 0) << start << ".prefetch must be at least 1";
  CHECK(param_.min_area() > 0 && param_.min_area() <= param_.max_area() && param_.max_area() <= 1)
      << start << ": 0 < min_area <= max_area <= 1 must hold";
  CHECK(param_.min_aspect() > 0 && param_.min_aspect() <= param_.max_aspect())
      << start << ": 0 < min_aspect <= max_aspect must hold";
  CHECK(param_.brightness() >= 0 && param_.contrast() >= 0 && param_.saturation() >= 0 && param_.pca_std() >= 0)
      << start << ": brightness, contrast, saturation and pca_std must not be negative";
  CHECK(param_.channels() == 3 || (param_.saturation() == 0 && param_.pca_std() == 0))
      << start << ": saturation and pca_std change colours, and channels is 1";
  CHECK(!param_.has_mean_file() || param_.mean_value_size() == 0)
      << start << " has both mean_file and mean_value";
  CHECK(param_.mean_value_size() <= 1 || param_.mean_value_size() == static_cast<int>(param_.channels()))
      << start << ".mean_value must be given once, or once for each of " << param_.channels() << " channels";
}

template <typename Dtype>
void AugmentedDataLayer<Dtype>::OpenSource() {
  try {
    source_ = param_.backend() == AugmentedDataParameter::LMDB
                  ? prototxt_gen::open_lmdb(param_.source())
                  : prototxt_gen::open_list(param_.source(), param_.root_folder());
  } catch (const std::runtime_error& error) {
    LOG(FATAL) << "layer '" << this->layer_param_.name() << "': " << error.what();
  }
}

template <typename Dtype>
void AugmentedDataLayer<Dtype>::ReadMean() {
  const int channels = param_.channels();
  const int size = param_.crop_size();
  mean_.assign(channels, Dtype(0));
  for (int c = 0; c < channels && param_.mean_value_size() > 0; ++c) {
    mean_[c] = param_.mean_value(std::min(c, param_.mean_value_size() - 1));
  }
  bool is_plane = false;
  if (param_.has_mean_file()) {
    BlobProto proto;
    ReadProtoFromBinaryFileOrDie(param_.mean_file().c_str(), &proto);
    Blob<Dtype> blob;
    blob.FromProto(proto);
    const bool fits = blob.num_axes() >= 3 && blob.shape(-3) == channels;
    CHECK(fits && blob.count() > 0 && blob.count(0, blob.num_axes() - 3) == 1)
        << "layer '" << this->layer_param_.name() << "': the mean in '" << param_.mean_file() << "' has the shape "
        << blob.shape_string() << ", not " << channels << " channels";
    const Dtype* const values = blob.cpu_data();
    const int plane = blob.shape(-2) * blob.shape(-1);
    is_plane = blob.shape(-2) == size && blob.shape(-1) == size;
    if (is_plane) {
      mean_.assign(values, values + blob.count());
    } else {
      for (int c = 0; c < channels; ++c) {
        double sum = 0;
        for (int i = 0; i < plane; ++i) {
          sum += static_cast<double>(values[c * plane + i]);
        }
        mean_[c] = static_cast<Dtype>(sum / plane);
      }
      LOG_IF(INFO, Caffe::root_solver())
          << "layer '" << this->layer_param_.name() << "': the mean in '" << param_.mean_file() << "' is "
          << blob.shape(-2) << " x " << blob.shape(-1) << ", the output " << size << " x " << size
          << ": its mean over each channel is used";
    }
  }
  output_ = {size, channels, static_cast<prototxt_gen::Interpolate>(param_.interpolation()), mean_.data(), is_plane,
             static_cast<Dtype>(param_.scale())};
}

template <typename Dtype>
void AugmentedDataLayer<Dtype>::MakeItem(Worker* worker, std::uint64_t batch, int item) {
  Batch* const to = batches_[batch % batches_.size()].get();
  const std::ptrdiff_t values = to->data.count(1);
  const std::uint64_t size = source_->size();
  const std::uint64_t position = param_.skip() + rank_ + (batch * param_.batch_size() + item) * solvers_;
  for (std::uint64_t tried = 0; tried < std::min(size, kTries); ++tried) {
    const std::uint64_t epoch = (position + tried) / size;
    const std::uint64_t place = (position + tried) % size;
    const std::uint64_t index =
        train_ && param_.shuffle()
            ? prototxt_gen::shuffled_index(place, size, param_.seed(), static_cast<std::uint32_t>(epoch))
            : place;
    try {
      MakeImage(worker, epoch, index, to->values + item * values, to->labels + item);
      return;
    } catch (const std::exception& error) {
      Skipped(index, error.what());
    }
  }
  LOG(FATAL) << "layer '" << this->layer_param_.name() << "': " << std::min(size, kTries)
             << " images in a row cannot be read";
}

template <typename Dtype>
void AugmentedDataLayer<Dtype>::MakeImage(Worker* worker, std::uint64_t epoch, std::uint64_t index, Dtype* values,
                                          Dtype* label) {
  using prototxt_gen::DrawPurpose;
  using prototxt_gen::DrawStream;
  const std::uint32_t epoch_word = static_cast<std::uint32_t>(epoch);
  source_->read(index, &worker->record);
  worker->decoder.open(worker->record);
  const prototxt_gen::CropWindow window =
      Window(worker->decoder.width(), worker->decoder.height(), epoch_word, index);
  DrawStream mirror{param_.seed(), epoch_word, index, DrawPurpose::kMirror};
  const bool mirrored = train_ && param_.mirror() && mirror.below(2) == 1;
  worker->rows.set(window.rows, output_.interpolate, output_.crop_size, false);
  worker->columns.set(window.columns, output_.interpolate, output_.crop_size, mirrored);
  const prototxt_gen::ImageView image = worker->decoder.decode(
      worker->rows.begin(), worker->rows.end(), worker->columns.begin(), worker->columns.end());
  prototxt_gen::ColourDraw colour;
  if (changes_colour_) {
    DrawStream factors{param_.seed(), epoch_word, index, DrawPurpose::kColour};
    DrawStream noise{param_.seed(), epoch_word, index, DrawPurpose::kNoise};
    colour = prototxt_gen::draw_colour(
        {param_.brightness(), param_.contrast(), param_.saturation(), param_.pca_std()}, &factors, &noise);
  }
  prototxt_gen::augment(image, worker->rows, worker->columns, changes_colour_ ? &colour : nullptr, output_,
                        &worker->row, values);
  *label = static_cast<Dtype>(worker->record.label);
}

template <typename Dtype>
prototxt_gen::CropWindow AugmentedDataLayer<Dtype>::Window(int width, int height, std::uint32_t epoch,
                                                           std::uint64_t index) const {
  const int size = param_.crop_size();
  const int pad = param_.pad();
  const int resize_short = param_.resize_short();
  prototxt_gen::DrawStream draw{param_.seed(), epoch, index, prototxt_gen::DrawPurpose::kCrop};
  if (train_ && param_.crop() == AugmentedDataParameter::RANDOM_RESIZED) {
    return prototxt_gen::random_resized_crop(
        width, height, size, {param_.min_area(), param_.max_area(), param_.min_aspect(), param_.max_aspect()}, &draw);
  }
  if (train_ && param_.crop() == AugmentedDataParameter::PADDED) {
    return prototxt_gen::padded_crop(width, height, size, pad, resize_short, &draw);
  }
  return prototxt_gen::centre_crop(width, height, size, pad, resize_short);
}

template <typename Dtype>
void AugmentedDataLayer<Dtype>::Skipped(std::uint64_t index, const char* why) {
  const std::lock_guard<std::mutex> lock(skipped_mutex_);
  if (skipped_.insert(index).second) {
    LOG(WARNING) << "layer '" << this->layer_param_.name() << "': image " << index << " ('" << source_->name(index)
                 << "') is skipped: " << why << "; " << skipped_.size() << " skipped so far";
  }
}

template <typename Dtype>
void AugmentedDataLayer<Dtype>::Forward_cpu(const std::vector<Blob<Dtype>*>& bottom,
                                            const std::vector<Blob<Dtype>*>& top) {
  Batch* const batch = batches_[queue_->next() % batches_.size()].get();
  top[0]->ReshapeLike(batch->data);
  top[0]->set_cpu_data(batch->values);
  if (top.size() > 1) {
    top[1]->ReshapeLike(batch->label);
    top[1]->set_cpu_data(batch->labels);
  }
}

INSTANTIATE_CLASS(AugmentedDataLayer);
REGISTER_LAYER_CLASS(AugmentedData);

}  // namespace caffe
