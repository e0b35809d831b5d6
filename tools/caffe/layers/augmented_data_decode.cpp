#include "augmented_data_decode.hpp"

// jpeglib.h needs FILE.
#include <cstdio>
#include <jpeglib.h>
#include <jerror.h>

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <opencv2/core/core.hpp>
#include <opencv2/imgcodecs.hpp>
#include <stdexcept>

#ifndef JCS_EXTENSIONS
#error "libjpeg-turbo is needed: it decodes into B, G, R, and parts of an image"
#endif

namespace prototxt_gen {

namespace {

// Interpolated chroma at the edges of a part needs its neighbours; an iMCU is at most 32 pixels wide.
constexpr int kMargin = 32;

// A damaged header must not take all memory.
constexpr std::int64_t kMostPixels = std::int64_t{1} << 28;

}  // namespace

// libjpeg's decompressor. It reports errors by a jump out of its functions, which must pass no C++ object by: each
// function that calls it keeps none.
struct ImageDecoder::Jpeg {
  jpeg_decompress_struct info;
  jpeg_error_mgr errors;
  std::jmp_buf out;
  char message[JMSG_LENGTH_MAX];

  Jpeg() {
    info.err = jpeg_std_error(&errors);
    errors.error_exit = [](j_common_ptr common) {
      Jpeg* const self = static_cast<Jpeg*>(common->client_data);
      common->err->format_message(common, self->message);
      std::longjmp(self->out, 1);
    };
    // Of the warnings only a missing end means that pixels are made up; the others are common in good images.
    errors.emit_message = [](j_common_ptr common, int level) {
      if (level < 0 && common->err->msg_code == JWRN_JPEG_EOF) {
        common->err->error_exit(common);
      }
    };
    info.client_data = this;
    jpeg_create_decompress(&info);
    info.client_data = this;
  }
  ~Jpeg() { jpeg_destroy_decompress(&info); }

  bool read_header(const unsigned char* bytes, unsigned long count) {
    if (setjmp(out)) {
      return false;
    }
    jpeg_abort_decompress(&info);
    jpeg_mem_src(&info, bytes, count);
    jpeg_read_header(&info, TRUE);
    return true;
  }

  // Starts at the part; its columns become [*left, *left + *width).
  bool start(bool grey, unsigned* left, unsigned* width, unsigned top) {
    if (setjmp(out)) {
      return false;
    }
    info.out_color_space = grey ? JCS_GRAYSCALE : JCS_EXT_BGR;
    jpeg_start_decompress(&info);
    if (*width < info.output_width) {
      jpeg_crop_scanline(&info, left, width);
    }
    if (top > 0) {
      jpeg_skip_scanlines(&info, top);
    }
    return true;
  }

  bool read_rows(unsigned char* to, std::size_t row_bytes, unsigned count) {
    if (setjmp(out)) {
      return false;
    }
    for (unsigned done = 0; done < count; ++done) {
      JSAMPROW row = to + done * row_bytes;
      jpeg_read_scanlines(&info, &row, 1);
    }
    jpeg_abort_decompress(&info);
    return true;
  }
};

ImageDecoder::ImageDecoder(int channels) : channels_(channels), jpeg_(new Jpeg) {}
ImageDecoder::~ImageDecoder() = default;

void ImageDecoder::open(const ImageRecord& record) {
  const auto* const bytes = reinterpret_cast<const unsigned char*>(record.bytes.data());
  is_jpeg_ = false;
  if (!record.encoded) {
    view_ = raw_view(record);
    return;
  }
  if (record.bytes.size() > 2 && bytes[0] == 0xFF && bytes[1] == 0xD8) {
    if (!jpeg_->read_header(bytes, record.bytes.size())) {
      throw std::runtime_error(jpeg_->message);
    }
    // libjpeg makes no B, G, R of the four inks of print.
    is_jpeg_ = jpeg_->info.num_components != 4;
    width_ = static_cast<int>(jpeg_->info.image_width);
    height_ = static_cast<int>(jpeg_->info.image_height);
    if (static_cast<std::int64_t>(width_) * height_ > kMostPixels) {
      throw std::runtime_error("is too large: " + std::to_string(width_) + " x " + std::to_string(height_));
    }
  }
  if (!is_jpeg_) {
    view_ = whole_view(record);
  }
}

ImageView ImageDecoder::decode(int top, int bottom, int left, int right) {
  if (!is_jpeg_) {
    return view_;
  }
  unsigned from = static_cast<unsigned>(std::max(left - kMargin, 0));
  unsigned width = static_cast<unsigned>(std::min(right + kMargin, width_)) - from;
  if (!jpeg_->start(channels_ == 1, &from, &width, static_cast<unsigned>(top))) {
    throw std::runtime_error(jpeg_->message);
  }
  const std::size_t row_bytes = static_cast<std::size_t>(width) * channels_;
  pixels_.resize(std::max<std::size_t>(row_bytes * (bottom - top), 1));
  if (!jpeg_->read_rows(pixels_.data(), row_bytes, static_cast<unsigned>(bottom - top))) {
    throw std::runtime_error(jpeg_->message);
  }
  return {pixels_.data(), static_cast<std::ptrdiff_t>(row_bytes), channels_, 1, channels_, top,
          static_cast<int>(from)};
}

ImageView ImageDecoder::raw_view(const ImageRecord& record) {
  width_ = record.width;
  height_ = record.height;
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(std::max(width_, 0)) * std::max(height_, 0);
  if (plane == 0 || (record.channels != 1 && record.channels != 3) ||
      record.bytes.size() != static_cast<std::size_t>(plane * record.channels)) {
    throw std::runtime_error("is a raw Datum of " + std::to_string(record.channels) + " x " +
                             std::to_string(height_) + " x " + std::to_string(width_) + " with " +
                             std::to_string(record.bytes.size()) + " bytes");
  }
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(record.bytes.data());
  if (record.channels == 3 && channels_ == 1) {
    pixels_.resize(plane);
    for (std::ptrdiff_t i = 0; i < plane; ++i) {
      const double grey = grey_weight(0) * bytes[i] + grey_weight(1) * bytes[plane + i] +
                          grey_weight(2) * bytes[2 * plane + i];
      pixels_[i] = static_cast<std::uint8_t>(grey + 0.5);
    }
    return {pixels_.data(), width_, 1, 0, 1, 0, 0};
  }
  // One plane serves all channels of a grey image.
  return {bytes, width_, 1, record.channels == 3 ? plane : 0, channels_, 0, 0};
}

ImageView ImageDecoder::whole_view(const ImageRecord& record) {
  const cv::Mat bytes(1, static_cast<int>(record.bytes.size()), CV_8U, const_cast<char*>(record.bytes.data()));
  const int flags = (channels_ == 3 ? cv::IMREAD_COLOR : cv::IMREAD_GRAYSCALE) | cv::IMREAD_IGNORE_ORIENTATION;
  cv::Mat image;
  try {
    image = cv::imdecode(bytes, flags);
  } catch (const cv::Exception& error) {
    throw std::runtime_error(error.err);
  }
  if (image.empty()) {
    throw std::runtime_error("is no image of a known format");
  }
  width_ = image.cols;
  height_ = image.rows;
  const std::size_t row_bytes = static_cast<std::size_t>(width_) * channels_;
  pixels_.resize(row_bytes * height_);
  for (int y = 0; y < height_; ++y) {
    std::memcpy(pixels_.data() + y * row_bytes, image.ptr(y), row_bytes);
  }
  return {pixels_.data(), static_cast<std::ptrdiff_t>(row_bytes), channels_, 1, channels_, 0, 0};
}

}  // namespace prototxt_gen
