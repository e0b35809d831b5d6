// Where AugmentedData's images lie: records by their number, without the images themselves in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "augmented_data_cpu.hpp"

namespace prototxt_gen {

// One image as stored: a compressed file, or raw bytes plane by plane (channels, height, width).
struct ImageRecord {
  std::string bytes;
  int label = 0;
  bool encoded = true;
  int channels = 0;
  int height = 0;
  int width = 0;
};

// Every function may be called by several threads at once. Errors of one record are thrown as std::runtime_error.
class ImageSource {
 public:
  virtual ~ImageSource() = default;
  virtual std::uint64_t size() const = 0;
  // What the index takes in memory.
  virtual std::size_t index_bytes() const = 0;
  virtual void read(std::uint64_t index, ImageRecord* record) const = 0;
  // How messages call a record: its key or path.
  virtual std::string name(std::uint64_t index) const = 0;
};

// Both throw std::runtime_error when the source cannot be opened, or is empty.
//
// An LMDB of Datum records: 16 bytes of memory for each record. Its file is mapped, and the pages that hold values are
// read when an image is. No lock is taken, so that a folder without write permission can be read, and one LMDB several
// times in one process; nobody may write to it meanwhile.
std::unique_ptr<ImageSource> open_lmdb(const std::string& folder);
// A text file of lines 'path label': its text and 8 bytes a line are kept.
std::unique_ptr<ImageSource> open_list(const std::string& file, const std::string& root_folder);

}  // namespace prototxt_gen
