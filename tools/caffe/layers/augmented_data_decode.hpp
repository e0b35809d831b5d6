// Decodes the part of an image that a crop reads.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "augmented_data_cpu.hpp"
#include "augmented_data_source.hpp"

namespace prototxt_gen {

// Pixels as B, G, R or grey, wanted in `channels`; an orientation noted in the file is not applied. One decoder serves
// one thread, image after image. Whatever is wrong with an image is thrown as std::runtime_error.
class ImageDecoder {
 public:
  explicit ImageDecoder(int channels);
  ~ImageDecoder();
  ImageDecoder(const ImageDecoder&) = delete;
  ImageDecoder& operator=(const ImageDecoder&) = delete;

  // Reads the size; the record must live until decode() is done.
  void open(const ImageRecord& record);
  int width() const { return width_; }
  int height() const { return height_; }
  // A view that holds at least rows [top, bottom) and columns [left, right), valid until the next call.
  ImageView decode(int top, int bottom, int left, int right);

 private:
  struct Jpeg;
  ImageView raw_view(const ImageRecord& record);
  ImageView whole_view(const ImageRecord& record);

  int channels_;
  int width_ = 0;
  int height_ = 0;
  bool is_jpeg_ = false;
  ImageView view_;
  std::vector<std::uint8_t> pixels_;
  std::unique_ptr<Jpeg> jpeg_;
};

}  // namespace prototxt_gen
